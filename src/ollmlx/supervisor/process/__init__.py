"""One child process and what it leaves on the machine: spawning, output, sockets, the state folder, orphans.

`supervisor.runner`, `supervisor.scheduling` and the app import it; it knows neither the protocol's client nor the pool.
"""
