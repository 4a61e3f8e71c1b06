"""Versions in the forms that other trainers take, each with the one command that trains on it."""
