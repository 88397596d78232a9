"""Reads the text form of NIST's CAVP, which other collections use too: `name = value` lines under [sections].

Only the form: what the fields mean is for who asks. A record begins at the field that the caller names and ends at
the next one or at a section. What stands outside of records (a section's own values, a key for several records) is
part of every record after it.
"""

from collections.abc import Iterator, Mapping
from typing import Final

SECTION: Final = "[]"
"""The field that holds the text of the last section without a value, such as "P-256,SHA-256" or "ENCRYPT"."""

Record = Mapping[str, str]
"""Fields by their names in lower case."""


def records(text: str, first: str, *, common: frozenset[str] = frozenset()) -> Iterator[Record]:
    """The records of a file, in its order.

    Args:
        text: the file.
        first: name of the field that begins a record, in lower case.
        common: fields that hold for all records after them wherever they stand, such as the modulus of RSA files.
    """
    shared: dict[str, str] = {}
    record: dict[str, str] | None = None
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if stripped.startswith("[") and stripped.endswith("]"):
            if record is not None:
                yield {**shared, **record}
                record = None
            shared.update(_section(stripped[1:-1]))
            continue
        name, _, value = stripped.partition("=")
        name, value = name.strip().lower(), value.strip()
        if name == first or name in common:
            if record is not None:
                yield {**shared, **record}
            record = {} if name == first else None
        (shared if record is None else record)[name] = value
    if record is not None:
        yield {**shared, **record}


def octets(value: str) -> bytes:
    """A value in hexadecimal, or in quotes for text; an odd number of digits has lost its leading zero."""
    if value.startswith('"') and value.endswith('"'):
        return value[1:-1].encode()
    return bytes.fromhex(value if len(value) % 2 == 0 else "0" + value)


def _section(text: str) -> dict[str, str]:
    if "=" not in text:
        return {SECTION: text.strip()}
    pairs = (part.partition("=") for part in text.split(","))
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
