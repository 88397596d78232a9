"""What clients and daemons of a protocol version said to each other, recorded, and replayed for ever after.

`version-N.json` holds frames that a client and a daemon of version N exchanged, one exchange an operation at least, and
the layout that its messages had. A daemon serves the version before its own, so these frames must go on being read
(`tests/unit/wire/test_previous_versions.py`) and answered (`tests/integration/test_previous_versions.py`).

A file is not changed any more once a release speaks its version; until then, what is new is recorded anew. When the
version of the protocol grows, the new one is recorded beside the old one:

    .venv/bin/python -m tests.wire_corpus.record
"""

from pathlib import Path
from typing import Final

import msgspec

FOLDER: Final = Path(__file__).parent


class Exchange(msgspec.Struct, frozen=True):
    """A request of an operation and its reply, each a frame in hexadecimal digits."""

    name: str
    request: str
    reply: str


class Layout(msgspec.Struct, frozen=True):
    """What the messages looked like.

    Attributes:
        operations: name, request and reply by opcode.
        structs: the fields of each struct in their order, with their types.
        enums: the values of each enumeration.
    """

    operations: dict[int, tuple[str, str, str]]
    structs: dict[str, list[tuple[str, str]]]
    enums: dict[str, list[str | int]]


class Corpus(msgspec.Struct, frozen=True):
    """One file."""

    version: int
    layout: Layout
    exchanges: list[Exchange]


def path_of(version: int) -> Path:
    """Where the corpus of a version is."""
    return FOLDER / f"version-{version}.json"


def read(version: int) -> Corpus:
    """The corpus of a version."""
    return msgspec.json.decode(path_of(version).read_bytes(), type=Corpus)
