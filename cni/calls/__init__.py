"""A CNI call behind the fast path: parsed, recorded, and carried out if the agent does not answer."""
