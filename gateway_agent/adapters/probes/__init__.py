"""Send probes, and see which of them are answered or dropped."""
