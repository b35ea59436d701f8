"""Encoders: models that read a whole text at once and write none. `engine.py` is what the runner imports.

Imports nothing of mlx-lm but Gemma's layers: a small encoder is loaded in a second.
"""
