"""The child's program: `python -m ollmlx.runner --engine package.module:Class --fd N` serves one engine.

Import order matters: `__main__` ties the process to its parent before anything slow is imported.
"""
