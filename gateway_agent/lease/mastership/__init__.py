"""What a node asks for, owns, hands over, and whom it follows."""
