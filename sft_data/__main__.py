"""The command line: `sft-data`, or `python -m sft_data`."""

import sys


def main() -> None:
    """Import the program and run it; Ctrl-C while it is still being imported leaves no traceback either."""
    try:
        from sft_data.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as where it is running
    run()


if __name__ == "__main__":
    main()
