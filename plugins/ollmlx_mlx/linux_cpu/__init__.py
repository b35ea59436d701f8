"""Speed on Linux CPUs: the choice of a BLAS in the daemon (`blas`), divided layers in the child (`layers`).

Reached through two seams only, `daemon.backend.find_blas` and `engine.load.fit_to_cpu`: without this folder both sides
work, more slowly.
"""
