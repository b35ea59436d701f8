"""One runner: its state machine, its client, its health, and why it ended.

`supervisor.scheduling` imports it; it imports `supervisor.process`.
"""
