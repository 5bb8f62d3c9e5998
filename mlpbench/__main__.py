"""`python -m mlpbench` is the `mlpbench` command."""

import sys

from mlpbench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
