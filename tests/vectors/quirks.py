"""Reads quirks.toml: what a provider is known to answer differently from a vector, reviewed, one reason each."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

_FILE = Path(__file__).with_name("quirks.toml")


@dataclass(frozen=True, slots=True)
class Quirk:
    """Cases of a set that a provider answers differently. `tests` names them; none takes the provider off the set."""

    provider: str
    set: str
    why: str
    tests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Form:
    """A form of keys that a provider does not import, of all that the suite has.

    `form` is "spki" for a public key alone, "seed" for a post-quantum private key by its seed, or another format.
    `key_types` are those that it is about; none is all of them.
    """

    provider: str
    form: str
    why: str
    key_types: tuple[str, ...] = ()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    quirk: list[Quirk] = msgspec.field(default_factory=list)
    form: list[Form] = msgspec.field(default_factory=list)


_READ = msgspec.convert(tomllib.loads(_FILE.read_text()), _File)
QUIRKS: Sequence[Quirk] = _READ.quirk
FORMS: Sequence[Form] = _READ.form


def refused_form(provider: str, form: str, key_type: str) -> Form | None:
    """The line for a form of keys that a provider does not import."""
    for line in FORMS:
        if (line.provider, line.form) == (provider, form) and (not line.key_types or key_type in line.key_types):
            return line
    return None


def quirk_of(provider: str, set_name: str, test: str = "") -> Quirk | None:
    """The line for a case, or with "" the one that takes the provider off a whole set."""
    for quirk in QUIRKS:
        if (quirk.provider, quirk.set) == (provider, set_name) and (test in quirk.tests if test else not quirk.tests):
            return quirk
    return None
