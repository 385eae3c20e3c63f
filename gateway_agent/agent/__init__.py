"""The agent's process: rounds from inventory to kernel, CNI calls, operators' requests."""
