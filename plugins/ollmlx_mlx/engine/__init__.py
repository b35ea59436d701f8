"""The engine in the runner process: it holds the weights and generates. `engine.py` is what the runner imports.

Imported by the runner, by the importer (`load`) and by `ollmlx_cluster`; never by the daemon.
"""
