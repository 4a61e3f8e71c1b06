"""Settings of all tests."""

import os

from hypothesis import settings

# The same generated inputs in every run of CI: it fails for what was changed, not for what was drawn.
# Elsewhere every run draws anew, and what it finds becomes a case of its own.
settings.register_profile("ci", derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
