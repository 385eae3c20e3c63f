"""The version of the product, named once: ``pyproject.toml`` reads it here."""

VERSION = "0.1.0"
