"""Computing on Linux CPUs: float32 layers in the shape that two cores and their caches compute fastest."""
