"""`ollmlx doctor`: examines the machine, the settings, the models and the daemon, and names the command that fixes each
problem. Checks read and never change anything; ollmlx's own are in `doctor.checks`, plugins add theirs with the hook
`register_checks`. The command line and the test kit may import this package.
"""
