"""Messages between lease daemons: their form, keys, limits, and what must agree."""
