"""From an installed model to a launch spec: overrides of the settings, choice of backend, context length and memory.

The service and the app import it; `supervisor` imports `spec` only.
"""
