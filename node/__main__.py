"""Entry point of the ``r3mes`` command: turns errors into one line and an exit code."""

from __future__ import annotations

import sys

from r3mes.node.cli.everywhere import DEBUG
from r3mes.node.cli.failure import exit_code, tell
from r3mes.node.cli.root import app


def main() -> None:
    """Run the command line; never shows a traceback without ``--debug``."""
    try:
        app(prog_name="r3mes")
    except Exception as error:  # crash boundary of the command line
        if DEBUG in sys.argv:
            raise
        tell(error)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
