"""`python -m benchmarks SUITE`."""

import argparse
import importlib
import platform
import subprocess
import sys

SUITES = ("core", "providers", "pkcs11", "est", "contexts")


def main() -> int:
    """Run a suite. Exit status 1 where a target was missed."""
    parser = argparse.ArgumentParser(prog="./dev bench")
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--turns", type=int, default=0, help="turns of each side; the suite's own number by default")
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    sys.stderr.write(f"{platform.machine()}, Python {platform.python_version()}, commit {commit.stdout.strip()}\n")
    suite = importlib.import_module(f"benchmarks.{arguments.suite}")
    missed = False
    for result in suite.run(arguments.only, arguments.turns or suite.TURNS):
        result.print()
        missed = missed or result.holds is False
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
