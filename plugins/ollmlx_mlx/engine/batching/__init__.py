"""Many requests, one model: prefill in slices, decoding in one batch, sampling per request. One thread runs it all."""
