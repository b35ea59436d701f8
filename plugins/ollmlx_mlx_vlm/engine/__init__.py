"""The child's side: mlx-vlm's models and processors as parts of the engine of `ollmlx_mlx`.

Only the runner's process imports it.
"""
