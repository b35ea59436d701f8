"""Plugins: the contracts they implement, the hooks that register them, how they are loaded, and what is registered.

The service, the doctor and the commands import it; the runner imports only `contracts`, plugins only `ollmlx`.
"""
