"""Continuous batching: prompts are computed in slices, sequences decode in one batch, each samples by its own rules.

Everything here runs on the compute thread. Imported by `ollmlx_mlx.engine`, and in part by `ollmlx_cluster`.
"""
