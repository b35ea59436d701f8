"""The chat of `ollmlx run MODEL`: the loop, its commands and the conversation. Only `ollmlx.cli.run` imports it."""
