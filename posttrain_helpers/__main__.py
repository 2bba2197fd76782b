"""`python -m posttrain_helpers`: see `posttrain_helpers.cli`."""

import sys

from posttrain_helpers.cli import main

if __name__ == "__main__":
    sys.exit(main())
