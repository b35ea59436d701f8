"""`ollmlx doctor`: looks at machine, settings, models and daemon, and says what is wrong and what to type.

ollmlx's own checks are in `ollmlx.doctor.checks`; plugins add theirs, of the same shape, with the hook
`register_checks`. A check gets a `World` and answers findings; it changes nothing.
"""
