"""Rows -> conversations: what each format means, which format it is, and the rules for turns."""
