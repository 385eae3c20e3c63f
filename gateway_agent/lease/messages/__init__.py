"""Messages between lease daemons: their format, keys, rates, and the settings that must agree."""
