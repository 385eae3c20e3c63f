"""What is shown of one node: status, explain, metrics, the page. Pure."""
