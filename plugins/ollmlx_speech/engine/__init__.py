"""The engine for speech. Runs in the child only: it imports the speech libraries, and decodes what clients send."""
