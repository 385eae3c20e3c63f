"""YAML and objects of the API as typed objects, with every problem in them."""
