"""What container engines know of their containers: read only."""
