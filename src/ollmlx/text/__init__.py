"""Text that people write: durations, sizes and addresses are parsed and formatted here. Pure.

It imports only `ollmlx.errors`; everything may import it.
"""
