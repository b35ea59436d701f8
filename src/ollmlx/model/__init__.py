"""The types that daemon, plugins and runners share: names, requests, events, installed models.

Imports only `ollmlx.errors` and `ollmlx.text`; everything may import it. Plugins use it as `ollmlx.types`.
"""
