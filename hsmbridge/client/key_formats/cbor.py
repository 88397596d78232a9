"""As much of CBOR (RFC 8949) as a COSE_Key needs: integers, byte and text strings, booleans, one flat map.

What is written is deterministic (section 4.2.1): shortest lengths, keys in the order of their encoded octets. What
is read may have any order and no key twice; tags, floats, nesting and indefinite lengths are refused.
"""

from collections.abc import Mapping

Value = int | bytes | str | bool
Map = dict[int | str, Value]

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _MAP, _SIMPLE = 0, 1, 2, 3, 5, 7
_FALSE, _TRUE = 20, 21


def encode_map(values: Mapping[int, Value]) -> bytes:
    """A map from integers, in deterministic encoding. Raises ValueError for an integer past 64 bits."""
    entries = sorted((_encode(key), _encode(value)) for key, value in values.items())
    return _head(_MAP, len(entries)) + b"".join(key + value for key, value in entries)


def decode_map(data: bytes) -> Map:
    """A map and nothing after it. Raises ValueError, whatever is wrong."""
    major, count, position = _read_head(data, 0)
    if major != _MAP or count > len(data):
        raise ValueError("no map")
    found: Map = {}
    for _ in range(count):
        key, position = _decode(data, position)
        value, position = _decode(data, position)
        if isinstance(key, bool | bytes) or key in found:
            raise ValueError("a key of the map stands twice, or is no integer or text")
        found[key] = value
    if position != len(data):
        raise ValueError("something follows the map")
    return found


def _encode(value: Value) -> bytes:
    if isinstance(value, bool):
        return bytes((_SIMPLE << 5 | (_TRUE if value else _FALSE),))
    if isinstance(value, int):
        return _head(_UNSIGNED, value) if value >= 0 else _head(_NEGATIVE, -1 - value)
    if isinstance(value, bytes):
        return _head(_BYTES, len(value)) + value
    text = value.encode()
    return _head(_TEXT, len(text)) + text


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes((major << 5 | argument,))
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes((major << 5 | code,)) + argument.to_bytes(size, "big")
    raise ValueError("an integer has at most 64 bits")


def _read_head(data: bytes, position: int) -> tuple[int, int, int]:
    if position >= len(data):
        raise ValueError("it ends too early")
    major, code = data[position] >> 5, data[position] & 31
    position += 1
    if code < 24:
        return major, code, position
    if code > 27 or major == _SIMPLE:
        raise ValueError("an encoding that keys have no use for")
    size = 1 << (code - 24)
    if position + size > len(data):
        raise ValueError("it ends too early")
    return major, int.from_bytes(data[position : position + size], "big"), position + size


def _decode(data: bytes, position: int) -> tuple[Value, int]:
    major, argument, position = _read_head(data, position)
    if major == _UNSIGNED:
        return argument, position
    if major == _NEGATIVE:
        return -1 - argument, position
    if major in (_BYTES, _TEXT):
        end = position + argument
        if end > len(data):
            raise ValueError("it ends too early")
        value = data[position:end]
        return (value if major == _BYTES else value.decode()), end
    if major == _SIMPLE and argument in (_FALSE, _TRUE):
        return argument == _TRUE, position
    raise ValueError("an encoding that keys have no use for")
