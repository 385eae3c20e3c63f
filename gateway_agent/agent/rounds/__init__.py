"""Reconcile the node: rounds, the plan that each makes, the steps that bring the node to it."""
