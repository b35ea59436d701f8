"""Measures model servers from outside, as their clients see them.

`ollmlx bench` and the benchmarks import this package.
"""
