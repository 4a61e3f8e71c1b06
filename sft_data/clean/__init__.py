"""Edits text, drops nothing."""
