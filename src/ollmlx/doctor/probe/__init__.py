"""Foreign plugins, looked at from a child process before the doctor itself imports them: one that prints, hangs, exits
or crashes Python is a finding, and everything else is still examined. Only the doctor imports this package.
"""
