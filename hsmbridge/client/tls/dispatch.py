"""The tables by which libcrypto finds a provider's functions, and what keeps Python's exceptions on this side.

Numbers are those of OpenSSL's core_dispatch.h. Whatever a table leads to lives as long as the process: libcrypto
keeps the addresses, and may follow them while the interpreter ends.

A callback catches every exception. Yet one can be there before the first line of a callback runs: a signal handler
that raises, in the main thread. ctypes then prints it and answers libcrypto with whatever lies on its stack.
Therefore (1) callbacks that answer an address are methods of builtin dicts, which run no bytecode for a signal to
interrupt, and (2) the one callback whose success lets bytes go out, the signature, is asked for its size first and
answers one that no TLS message can have: a success that did not set the true size is an error in libssl.
"""

import ctypes
from collections.abc import Callable, Iterable, Mapping
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_size_t, c_void_p
from typing import Final

from hsmbridge.client.tls.openssl import Address, Param

Made = Callable[..., Address]
"""What a callback type makes; ctypes does not tell mypy more."""

INTEGER: Final = 1
UNSIGNED_INTEGER: Final = 2
UTF8_STRING: Final = 4
OCTET_STRING: Final = 5

NO_SUCH_SIZE: Final = 1 << 16
"""More bytes than the length field before a signature in TLS can tell (RFC 8446 section 4.4.3: at most 2^16 - 1)."""


class _Dispatch(ctypes.Structure):
    _fields_ = (("function_id", c_int), ("function", c_void_p))


class _Algorithm(ctypes.Structure):
    _fields_ = (
        ("names", c_char_p),
        ("properties", c_char_p),
        ("implementation", c_void_p),
        ("description", c_char_p),
    )


_for_ever: list[object] = []


def keep(item: object) -> None:
    """Keep `item` for the life of the process, the end of the interpreter included."""
    _for_ever.append(item)
    # The list goes when modules are cleared at exit; what C code may still call must not.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))


class Guarded:
    """A callback's Python side: what it raises becomes `failed`, the answer that means failure."""

    __slots__ = ("_body", "_failed")

    def __init__(self, body: Callable[..., int | None], failed: int | None) -> None:
        self._body = body
        self._failed = failed

    def __call__(self, *arguments: object) -> int | None:
        try:
            return self._body(*arguments)
        except BaseException:  # noqa: BLE001 - nothing may pass into C; the signature's callback reports its own
            return self._failed


def callback(kind: type, body: Callable[..., int | None], failed: int | None = 0) -> int:
    """The address of a C function of type `kind` that calls `body`."""
    return _address(kind, Guarded(body, failed))


def constant(kind: type, answers: Mapping[int, int]) -> int:
    """The address of a C function that looks its first argument up, and answers its second where that is not there."""
    return _address(kind, dict(answers).get)


def _address(kind: type, body: Callable[..., int | None]) -> int:
    made = kind(body)
    keep(made)
    return ctypes.cast(made, c_void_p).value or 0


def dispatch_table(functions: Mapping[int, int]) -> int:
    """The address of an OSSL_DISPATCH array."""
    rows = (_Dispatch * (len(functions) + 1))(*(_Dispatch(*row) for row in functions.items()))
    keep(rows)
    return ctypes.addressof(rows)


def algorithm_table(rows: Iterable[tuple[bytes, int]]) -> int:
    """The address of an OSSL_ALGORITHM array: names and dispatch table of each."""
    made = [_Algorithm(names, b"provider=hsmbridge", functions, b"") for names, functions in rows]
    table = (_Algorithm * (len(made) + 1))(*made)
    keep(table)
    return ctypes.addressof(table)


def parameter_table(names: Mapping[bytes, int]) -> int:
    """The address of an OSSL_PARAM array that says which parameters there are, and of what type."""
    rows = [Param(name, kind, None, 0, 0) for name, kind in names.items()]
    table = (Param * (len(rows) + 1))(*rows)
    keep(table)
    return ctypes.addressof(table)


def parameters(address: Address) -> dict[bytes, Param]:
    """The parameters of an OSSL_PARAM array, by their names; of NULL, none."""
    found: dict[bytes, Param] = {}
    if address:
        row = Param.from_address(address)
        while row.key:
            found[row.key] = row
            address += ctypes.sizeof(Param)
            row = Param.from_address(address)
    return found


# Types of the functions, named as in core_dispatch.h.

OneAddress = CFUNCTYPE(c_void_p, c_void_p)
Answer = CFUNCTYPE(c_void_p, c_void_p, c_void_p)
Selected = CFUNCTYPE(c_void_p, c_int)
Free = CFUNCTYPE(None, c_void_p)
Has = CFUNCTYPE(c_int, c_void_p, c_int)
Match = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
Import = CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)
Export = CFUNCTYPE(c_int, c_void_p, c_int, c_void_p, c_void_p)
ExportTo = CFUNCTYPE(c_int, c_void_p, c_void_p)
TakesParameters = CFUNCTYPE(c_int, c_void_p, c_void_p)
SignatureNew = CFUNCTYPE(c_void_p, c_void_p, c_char_p)
DigestSignInit = CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p, c_void_p)
DigestSign = CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(c_size_t), c_size_t, c_void_p, c_size_t)
Query = CFUNCTYPE(c_void_p, c_void_p, c_int, c_void_p)
