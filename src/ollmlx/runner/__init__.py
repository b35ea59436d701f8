"""The child's program: `python -m ollmlx.runner --engine package.module:Class --fd N` serves one engine.

The daemon starts it and imports nothing of it; engines, stores and plugins import `ollmlx.runner.kit` only.
This file stays empty: `__main__` ties the process to its parent before anything slow is imported.
"""
