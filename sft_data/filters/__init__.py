"""Decides on rows, drops with a code, never changes text."""
