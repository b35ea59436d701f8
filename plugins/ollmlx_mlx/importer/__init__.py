"""The program `python -m ollmlx_mlx.importer`: makes MLX folders from GGUF files and from folders of safetensors.

The daemon starts it as a child process. Nothing imports this package.
"""
