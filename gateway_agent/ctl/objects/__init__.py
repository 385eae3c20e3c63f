"""Work on objects without the agent: validate manifests, plan them for a trial, compare an edit with the store."""
