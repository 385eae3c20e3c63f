"""Keep the pods of this node: their records, their tags, and pods without a CNI call."""
