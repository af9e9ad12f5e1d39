"""Entry point of the ``r3mes`` command: turns errors into one line and an exit code."""

from __future__ import annotations

import sys

from r3mes.node.cli.failure import exit_code, tell
from r3mes.node.cli.root import app
from r3mes.node.cli.session import hoist


def main() -> None:
    """Run the command line; never shows a traceback without ``--debug``."""
    arguments = hoist(sys.argv[1:])
    try:
        app(arguments, prog_name="r3mes")
    except Exception as error:  # crash boundary of the command line
        if "--debug" in arguments:
            raise
        tell(error)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
