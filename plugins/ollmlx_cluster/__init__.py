"""One model over several processes or machines, with MLX's own distributed engine and `mlx.launch`.

The daemon sees one runner. It is a small launcher (`launch`) that starts a group of ranks (`rank`) and hands its
listening socket to rank 0, which serves the Runner Protocol; the others compute in lock-step with it.
"""
