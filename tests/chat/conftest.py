"""A built version to look at."""

from tests.export.conftest import version

__all__ = ["version"]
