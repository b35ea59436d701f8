"""Parts for route families: reading request bodies, streaming responses and reporting errors.

Everything here is exported by `ollmlx.web`; plugins import it from there.
"""
