"""`ollmlx doctor --model NAME`: does this model, on this machine, answer as it must?

Wrong answers from a stale cache or from a mixed batch look like answers. Each promise that keeps them away is tried,
and a broken one is a finding with a code of its own. Everything goes through the daemon's HTTP API.
"""
