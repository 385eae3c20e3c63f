"""Implement ``egressctl``, the operator's tool."""
