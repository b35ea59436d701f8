"""`ollmlx doctor --model NAME`: checks whether a model answers correctly on this machine.

Wrong answers from a stale cache or a mixed batch look like right ones. Each trial tests one guarantee against them and
reports a failure as a finding. All requests go through the daemon's HTTP API. The command line imports this package.
"""
