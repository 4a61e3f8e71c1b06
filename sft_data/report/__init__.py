"""Measure a version, and lay the measurement out for terminal, Markdown and the browser."""
