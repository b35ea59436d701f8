"""The chat loop of `ollmlx run MODEL`."""
