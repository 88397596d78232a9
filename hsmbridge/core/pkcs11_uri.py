"""PKCS#11 URIs (RFC 7512): which token, and which object on it.

Parsing and formatting, nothing else: no file is read and no module loaded. Stricter than the RFC in three ways:
a PIN in a URI (`pin-value`) is refused, for URIs are printed and logged; so is any attribute that the RFC does not
define, with the nearest one named; and every attribute must have a value.
"""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

import msgspec

from hsmbridge.core.calls import TokenIdentity
from hsmbridge.core.errors import RequestError, Status

SCHEME = "pkcs11:"

_UNRESERVED = "A-Za-z0-9._~-"
_AVAILABLE = r":\[\]@!$'()*+,="
_PATH_VALUE = re.compile(rf"(?:[{_AVAILABLE}&{_UNRESERVED}]|%[0-9A-Fa-f]{{2}})+", re.ASCII)
_QUERY_VALUE = re.compile(rf"(?:[{_AVAILABLE}/?|{_UNRESERVED}]|%[0-9A-Fa-f]{{2}})+", re.ASCII)
_SLOT_ID = re.compile(r"[0-9]{1,20}", re.ASCII)
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
OBJECT_TYPES = frozenset({"public", "private", "cert", "secret-key", "data"})

_PATH_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "token": "token",
        "manufacturer": "manufacturer",
        "serial": "serial",
        "model": "model",
        "library-manufacturer": "library_manufacturer",
        "library-version": "library_version",
        "library-description": "library_description",
        "slot-manufacturer": "slot_manufacturer",
        "slot-description": "slot_description",
        "slot-id": "slot_id",
        "object": "object",
        "type": "type",
        "id": "id",
    }
)
_QUERY_FIELDS: Mapping[str, str] = MappingProxyType(
    {"module-path": "module_path", "module-name": "module_name", "pin-source": "pin_source"}
)


class Pkcs11Uri(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The attributes of a URI, decoded; what it does not say is None. In the order in which they are written."""

    model: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    token: str | None = None
    library_manufacturer: str | None = None
    library_version: str | None = None
    library_description: str | None = None
    slot_manufacturer: str | None = None
    slot_description: str | None = None
    slot_id: int | None = None
    object: str | None = None
    type: str | None = None
    id: bytes | None = None
    module_path: str | None = None
    module_name: str | None = None
    pin_source: str | None = None


def parse_uri(text: str) -> Pkcs11Uri:
    """The attributes of a PKCS#11 URI. Raises RequestError (INVALID_CONFIGURATION); the text itself is not shown."""
    if text[: len(SCHEME)].lower() != SCHEME:
        raise _invalid("it does not begin with 'pkcs11:'")
    path, has_query, query = text[len(SCHEME) :].partition("?")
    fields: dict[str, str | int | bytes] = {}
    if path:
        _collect(fields, path.split(";"), _PATH_FIELDS, _PATH_VALUE)
    if has_query:
        _collect(fields, query.split("&"), _QUERY_FIELDS, _QUERY_VALUE)
    return msgspec.convert(fields, Pkcs11Uri)


def format_uri(uri: Pkcs11Uri) -> str:
    """The URI in its one canonical form: attributes in the order of Pkcs11Uri, everything doubtful percent-encoded."""
    path = [f"{name}={value}" for name, value in _written(uri, _PATH_FIELDS)]
    query = [f"{name}={value}" for name, value in _written(uri, _QUERY_FIELDS)]
    return SCHEME + ";".join(path) + (f"?{'&'.join(query)}" if query else "")


def token_uri(token: TokenIdentity) -> str:
    """The URI of a token, by all that it says of itself."""
    return format_uri(
        Pkcs11Uri(
            model=token.model or None,
            manufacturer=token.manufacturer or None,
            serial=token.serial or None,
            token=token.label or None,
        )
    )


def key_uri(token: TokenIdentity, key_id: bytes, type_: str = "private") -> str:
    """The URI of a key on a token, by its CKA_ID; `type_` is "private", "public" or "secret-key"."""
    separator = "" if (base := token_uri(token)) == SCHEME else ";"
    return f"{base}{separator}id={''.join(f'%{byte:02X}' for byte in key_id)};type={type_}"


def _collect(
    fields: dict[str, str | int | bytes], parts: list[str], known: Mapping[str, str], allowed: re.Pattern[str]
) -> None:
    for part in parts:
        name, separator, raw = part.partition("=")
        if name == "pin-value":
            raise _invalid("it holds a PIN (pin-value); URIs are printed and logged, so give the PIN by a file")
        field = known.get(name)
        if field is None:
            raise _invalid(_unknown(name, known))
        if field in fields:
            raise _invalid(f"{name} stands in it twice")
        if not separator or not raw:
            raise _invalid(f"{name} has no value")
        if not allowed.fullmatch(raw):
            raise _invalid(f"the value of {name} has a character that must be percent-encoded")
        fields[field] = _decoded(name, raw)


def _decoded(name: str, raw: str) -> str | int | bytes:
    value = unquote_to_bytes(raw)
    if name == "id":
        return value
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise _invalid(f"the value of {name} is not UTF-8") from None
    if "\0" in text:
        raise _invalid(f"the value of {name} has a NUL in it")
    if name == "slot-id":
        if not _SLOT_ID.fullmatch(text):
            raise _invalid("slot-id is not a decimal number")
        return int(text)
    if name == "type" and text not in OBJECT_TYPES:
        raise _invalid(f"type is one of {', '.join(sorted(OBJECT_TYPES))}")
    return text


def _unknown(name: str, known: Mapping[str, str]) -> str:
    shown = name if len(name) <= 40 else f"{name[:37]}..."
    if name in _QUERY_FIELDS or name in _PATH_FIELDS:
        side = "behind the '?'" if name in _QUERY_FIELDS else "before the '?'"
        return f"{name} stands {side}"
    near = get_close_matches(name, known, n=1)
    return f"there is no attribute {shown!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _written(uri: Pkcs11Uri, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    spelt = {field: name for name, field in names.items()}
    for field in uri.__struct_fields__:
        value = getattr(uri, field)
        if value is None or field not in spelt:
            continue
        if isinstance(value, bytes):
            yield spelt[field], "".join(f"%{byte:02X}" for byte in value)
        else:
            slash = b"/" if field == "module_path" else b""
            yield spelt[field], _quoted(str(value).encode(), slash)


def _quoted(value: bytes, also: bytes) -> str:
    return "".join(chr(byte) if byte in _PLAIN or byte in also else f"%{byte:02X}" for byte in value)


def _invalid(why: str) -> RequestError:
    return RequestError(Status.INVALID_CONFIGURATION, f"This is not a usable PKCS#11 URI: {why}.")
