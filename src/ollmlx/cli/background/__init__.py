"""The daemon as a service of the person's session: one description, written for systemd or for launchd.

Only the verb `service` imports this folder.
"""
