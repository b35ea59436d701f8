"""The command `ollmlx`: `main.py` finds the verb, imports its module and no other, and turns errors into exit codes.

Verbs call the daemon's HTTP API. No other package imports this one, except `ollmlx.__main__`.
"""
