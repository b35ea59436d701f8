"""The backend in the daemon: which models it runs, what they cost, which command runs them.

Imported by the plugin's hooks and by `ollmlx_cluster`. It imports no mlx, and nothing from `engine/` or `importer/`.
"""
