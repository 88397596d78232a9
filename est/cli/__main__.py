"""`python -m est.cli`."""

from est.cli.app import main

main()
