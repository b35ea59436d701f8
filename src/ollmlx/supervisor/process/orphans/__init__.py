"""No child process outlives the daemon: a guardian process now, and records on disk for the next daemon.

Imported by `supervisor.runner`. `guardian` also runs by its path, without any package.
"""
