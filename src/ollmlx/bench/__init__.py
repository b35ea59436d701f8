"""Measuring a model server from outside, as its clients see it. Used by `ollmlx bench`."""
