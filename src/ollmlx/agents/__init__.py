"""Coding agents: what each needs to use this daemon.

The command line imports it; it imports errors and texts only.
"""
