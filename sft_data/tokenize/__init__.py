"""Conversations become token ids and labels, with a proof for every supervised turn."""
