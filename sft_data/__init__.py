"""Turns raw instruction data into a dataset one can trust, and trains on it."""
