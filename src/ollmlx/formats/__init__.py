"""Bounded readers of the headers of model files. They read no weights and trust no length that a file states.

Stores, backends and the service import it.
"""
