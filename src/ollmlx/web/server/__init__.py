"""Listening, serving connections, and stopping.

Only `ollmlx.cli.daemon` starts it; the rest of `ollmlx.web` imports its addresses and its drain.
"""
