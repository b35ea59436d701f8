"""Which request gets which runner: the pool, its queue, its memory, evictions and restarts.

The service and the app import `pool`; metrics import `observer`.
"""
