"""The command `hsmbridge`: people and scripts at a terminal.

It is a client like any other and holds no key. `hsmbridge.cli.app` is the way in; each command is loaded when it
is called, so that one call stays quick.
"""

from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    from hsmbridge.cli.app import run

    run()
