"""Key-value caches: operations on them, and the prefix cache in memory and on disk.

Imported by `ollmlx_mlx.engine` only.
"""
