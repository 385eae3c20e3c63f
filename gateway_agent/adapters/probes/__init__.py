"""Send probes, and find out which are answered, and where others are dropped."""
