"""Writes requirements.md from requirements.toml, which names the tests of each requirement."""

import tomllib
from pathlib import Path

HERE = Path(__file__).parent
HEAD = """\
# Requirements of EST, and the test of each

Generated from `requirements.toml` by `docs/est/generate.py`; a test proves that this page is current, that every test
in it exists, and that no requirement of level *must* is without one. Rows follow RFC 7030 with RFC 8951, 8996 and 9908:
A HTTP, B transfer encoding, C TLS, D trust anchors, E the server's right, F proof of possession, G enrolment, H
attributes, I keys made by the server, J full CMC, K neighbours. The last column names programs that are not ours.

| | level | requirement | tests | with |
|---|---|---|---|---|
"""


def page() -> str:
    """The page."""
    rows = tomllib.loads((HERE / "requirements.toml").read_text())
    lines = []
    for name, row in rows.items():
        tests = "<br>".join(f"`{one.rpartition('::')[2]}`" for one in row["tests"]) or f"*{row['gap']}*"
        lines.append(f"| {name} | {row['level']} | {row['text']} | {tests} | {row['others']} |\n")
    return HEAD + "".join(lines)


def main() -> None:
    """Write the page."""
    (HERE / "requirements.md").write_text(page())


if __name__ == "__main__":
    main()
