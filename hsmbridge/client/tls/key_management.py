"""The provider's key management: RSA and EC keys that consist of a public half and somebody who signs.

The rules that make libssl sign with such a key, and libcrypto compare it with a certificate's:

- the private half is not exported, or libcrypto would go on with a public-only copy in its own provider;
- no foreign key is imported, so that for a comparison libcrypto exports ours, and compares with its own code;
- the curve is answered by the name that libssl looks for.
"""

import ctypes
import sys

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmbridge.client.tls import dispatch as d
from hsmbridge.client.tls.key_table import ProvidedKey, arriving, keys
from hsmbridge.client.tls.openssl import Address, OpenSsl, Param

KEY_NUMBER = b"hsmbridge-key"
"""The one parameter by which a key is made: its number in `arriving`."""

_NEW, _FREE, _GET_PARAMS, _GETTABLE_PARAMS, _HAS, _MATCH = 1, 10, 11, 12, 21, 23
_IMPORT, _IMPORT_TYPES, _EXPORT, _EXPORT_TYPES = 40, 41, 42, 43
_SELECT_PRIVATE_KEY = 0x01

_GETTABLE = {
    b"bits": d.INTEGER,
    b"security-bits": d.INTEGER,
    b"max-size": d.INTEGER,
    b"group": d.UTF8_STRING,
    b"default-digest": d.UTF8_STRING,
}


def key_management(library: OpenSsl, provider_context: int) -> int:
    """The address of the dispatch table, the same for RSA and EC."""

    def get_params(number: Address, asked: Address) -> int:
        return _answer(library, _key(number), d.parameters(asked))

    return d.dispatch_table(
        {
            _NEW: d.callback(d.OneAddress, _new, None),
            _FREE: d.callback(d.Free, _free, None),
            _GET_PARAMS: d.callback(d.TakesParameters, get_params),
            _GETTABLE_PARAMS: d.constant(d.OneAddress, {provider_context: d.parameter_table(_GETTABLE)}),
            _HAS: d.callback(d.Has, _has),
            _MATCH: d.callback(d.Match, _match),
            _IMPORT: d.callback(d.Import, _import),
            _IMPORT_TYPES: d.constant(d.Selected, {}),
            _EXPORT: d.callback(d.Export, _export),
            _EXPORT_TYPES: d.constant(d.Selected, {}),
        }
    )


def _new(_provider_context: Address) -> int:
    return keys.add(None)


def _free(number: Address) -> None:
    keys.drop(number)


def _key(number: Address) -> ProvidedKey:
    key = keys.get(number)
    if key is None:
        raise KeyError(number)
    return key


def _has(number: Address, _selection: int) -> int:
    return int(keys.get(number) is not None)


def _match(one: Address, other: Address, _selection: int) -> int:
    return int(_key(one).private_key.public_key() == _key(other).private_key.public_key())


def _import(number: Address, _selection: int, given: Address) -> int:
    row = d.parameters(given)[KEY_NUMBER]
    keys.get(number)
    keys.replace(number, arriving.get(int.from_bytes(ctypes.string_at(row.data or 0, row.data_size), "big")))
    return 1


def _answer(library: OpenSsl, key: ProvidedKey, asked: dict[bytes, Param]) -> int:
    for name, number in (
        (b"bits", key.bits),
        (b"security-bits", key.security_bits),
        (b"max-size", key.largest_signature),
    ):
        if name in asked and library.param_set_int(ctypes.addressof(asked[name]), number) != 1:
            return 0
    for name, text in ((b"group", key.group), (b"default-digest", b"SHA256")):
        if name in asked and text and library.param_set_utf8(ctypes.addressof(asked[name]), text) != 1:
            return 0
    return 1


def _export(number: Address, selection: int, function: Address, argument: Address) -> int:
    if selection & _SELECT_PRIVATE_KEY or not function:
        return 0
    rows = _public_half(_key(number))
    table = (Param * (len(rows) + 1))(
        *(Param(name, kind, ctypes.addressof(data), len(data), 0) for name, kind, data in rows)
    )
    return int(d.ExportTo(function)(ctypes.addressof(table), argument))


def _public_half(key: ProvidedKey) -> list[tuple[bytes, int, "ctypes.Array[ctypes.c_char]"]]:
    """The parameters of the public key, with the buffers that hold them."""
    private_key = key.private_key
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        point = private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return [(b"group", d.UTF8_STRING, _buffer(key.group or b"")), (b"pub", d.OCTET_STRING, _buffer(point))]
    numbers = private_key.public_key().public_numbers()
    return [(b"n", d.UNSIGNED_INTEGER, _number(numbers.n)), (b"e", d.UNSIGNED_INTEGER, _number(numbers.e))]


def _buffer(data: bytes) -> "ctypes.Array[ctypes.c_char]":
    return ctypes.create_string_buffer(data, len(data))


def _number(value: int) -> "ctypes.Array[ctypes.c_char]":
    # In the machine's byte order, as core.h says of integers.
    return _buffer(value.to_bytes((value.bit_length() + 7) // 8, sys.byteorder))
