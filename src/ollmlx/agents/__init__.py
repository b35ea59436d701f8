"""Coding agents: what each needs to use this daemon, and a trial that shows if it can do its work with a model.

The command line imports it; it imports errors and texts only.
"""
