"""Values that the configuration writes in a form of its own, and how to say which form a setting takes."""

import re
from pathlib import Path
from typing import Any, Final

from msgspec import inspect

_SIZE = re.compile(r"([0-9]{1,15}) ?(B|KiB|MiB|GiB)?", re.ASCII)
_UNITS: Final = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)


class ByteSize(int):
    """A number of bytes, written as 1048576 or "1MiB"."""

    def __str__(self) -> str:
        for unit in ("GiB", "MiB", "KiB"):
            if self and self % _UNITS[unit] == 0:
                return f"{self // _UNITS[unit]}{unit}"
        return f"{int(self)}"


class FileMode(int):
    """Permission bits of a file, written as "0660"."""

    def __str__(self) -> str:
        return f"{int(self):04o}"


def decode_value(kind: type, written: object) -> object:
    """For msgspec: a value of one of these types from what the file says. Raises ValueError."""
    if kind is ByteSize:
        return _byte_size(written)
    if kind is FileMode and isinstance(written, str) and _MODE.fullmatch(written):
        return FileMode(written, 8)
    if kind is Path and isinstance(written, str) and written and "\0" not in written:
        return Path(written)
    raise ValueError


def expected(kind: Any) -> str:  # any type form: there is no type of types
    """What a setting of this type takes, for people: "a whole number from 1 to 64"."""
    return _expected(inspect.type_info(kind))


def _byte_size(written: object) -> ByteSize:
    if isinstance(written, int) and not isinstance(written, bool) and written >= 0:
        return ByteSize(written)
    found = _SIZE.fullmatch(written) if isinstance(written, str) else None
    if found is None:
        raise ValueError
    return ByteSize(int(found[1]) * _UNITS[found[2]])


def _expected(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata(type=inner):
            return _expected(inner)
        case inspect.UnionType(types=types):
            return " or ".join(_expected(one) for one in types if not isinstance(one, inspect.NoneType))
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=least, le=most):
            return f"a whole number{_bounds(least, most)}"
        case inspect.FloatType(ge=least, le=most):
            return f"a number{_bounds(least, most)}"
        case inspect.EnumType(cls=cls):
            return "one of " + ", ".join(f'"{one.value}"' for one in cls)
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(f'"{one}"' for one in sorted(values, key=str))
        case inspect.VarTupleType() | inspect.ListType():
            return "a list of strings"
        case inspect.DictType():
            return "a table of strings"
        case inspect.CustomType(cls=cls):
            return _CUSTOM.get(cls, "a value")
        case _:
            return "a string"


_CUSTOM: Final[dict[type, str]] = {
    ByteSize: 'a number of bytes, or a size such as "16MiB"',
    FileMode: 'permission bits such as "0660"',
    Path: "a path",
}


def _bounds(least: float | None, most: float | None) -> str:
    if least is None and most is None:
        return ""
    if least is None:
        return f" of at most {_shown(most)}"
    return f" of at least {_shown(least)}" if most is None else f" from {_shown(least)} to {_shown(most)}"


def _shown(bound: float | None) -> str:
    """A bound as people write it; large ones are handles of a TPM and the like."""
    if bound is None or bound != int(bound):
        return "" if bound is None else f"{bound:g}"
    return f"{int(bound):#x}" if bound >= 1 << 30 else f"{int(bound)}"
