"""`python -m lit_triwave`."""

import sys

from lit_triwave.cli import main

if __name__ == "__main__":
    sys.exit(main())
