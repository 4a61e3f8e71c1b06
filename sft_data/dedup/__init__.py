"""Removes rows that the dataset already has: exact copies first, then near ones."""
