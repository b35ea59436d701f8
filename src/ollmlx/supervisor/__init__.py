"""Child processes: how they are started, watched, scheduled and ended. Knows nothing of chat, routes or stores.

The service and the app import it; it imports the vocabulary, `launch.spec`, the settings and the runner protocol.
"""
