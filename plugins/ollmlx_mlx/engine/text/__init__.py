"""Text on its way to token ids (templates, prompts) and back (detokenising, stop strings, reasoning, tool calls).

Imported by `ollmlx_mlx.engine` and by `ollmlx_cluster`.
"""
