"""Bytes -> rows: files, compression, encodings, and the containers in which rows lie."""
