"""Key-value caches that outlive their request: in memory, and on disk between two lives of a runner."""
