"""It is written for a version of the hooks that does not exist yet."""

ollmlx_api = 2
