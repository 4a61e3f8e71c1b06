"""Versions: published whole, immutable, checkable."""
