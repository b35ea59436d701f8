"""`ollmlx doctor`: looks at the machine, the settings, the models and the daemon, and says what is wrong and what to type.

Checks enter through the hook `register_checks`; ollmlx's own are registered with the same signature by
`ollmlx.doctor.checks.register_checks`. A check gets a `World` and answers findings; it changes nothing.
"""
