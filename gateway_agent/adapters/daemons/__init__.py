"""Run and watch the processes beside the agent: the lease daemon and conntrackd."""
