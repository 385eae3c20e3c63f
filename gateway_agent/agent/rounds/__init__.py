"""Reconcile the node: rounds, planning, and the steps of a round."""
