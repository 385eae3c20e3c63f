"""Keep the pods of this node: their records, their tags, and pods that no CNI call announced."""
