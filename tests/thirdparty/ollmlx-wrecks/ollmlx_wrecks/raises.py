"""It raises when it is imported."""

raise RuntimeError("I cannot be imported")
