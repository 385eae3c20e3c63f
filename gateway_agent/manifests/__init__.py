"""Parse YAML documents and API objects into typed objects, and report every problem in them."""
