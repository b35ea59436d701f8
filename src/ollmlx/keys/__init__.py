"""Named API keys, `[security.keys.NAME]`: which models each may use, how much a day, and how much it has used."""
