from tests.test_cli import sft  # noqa: F401  # a fixture: runs a command
