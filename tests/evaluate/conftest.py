"""Tiny models run on one thread here too."""

from tests.train.conftest import one_thread

__all__ = ["one_thread"]
