"""Packs: which rows share one training sequence, and the files in which they lie."""
