"""The command `est`."""

from est.cli.app import main

__all__ = ["main"]
