"""Personal data and secrets: found by shape and checksum, and masked."""
