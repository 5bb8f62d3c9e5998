"""Start the `mlpbench` command. Ctrl-C gets one line from here on, also while the command line is loaded."""

import sys


def main() -> int:
    """Run the command line, and return its exit code."""
    try:
        from mlpbench.cli.main import main as run
    except KeyboardInterrupt:
        print("mlpbench: interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
