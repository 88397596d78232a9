"""`python -m hsmbridge.cli`: the same as the command `hsmbridge`."""

from hsmbridge.cli import main

main()
