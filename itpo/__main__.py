"""The command line: ``python -m itpo --help``."""

import sys

from itpo.apps.command_line import main

if __name__ == "__main__":
    sys.exit(main())
