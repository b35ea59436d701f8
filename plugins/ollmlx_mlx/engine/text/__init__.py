"""Between conversations and token ids: templates going in; detokenising, stops, thinking and tool calls coming out."""
