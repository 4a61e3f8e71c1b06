"""Measures rows and adds columns."""
