"""Objects without the agent: validate manifests, plan them for a trial, compare an edit with what is in force."""
