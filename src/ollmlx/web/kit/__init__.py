"""What route families use to read request bodies, stream responses and report errors.

Everything here is exported by `ollmlx.web`; plugins import it from there.
"""
