"""CKA_LABEL and CKA_ID in the names of slots and certificates.

What is made through PKCS#11 is called LABEL.id-HEX.n-HEX: the label with what a name cannot hold written as --XX
(UTF-8, hexadecimal), the id where the application gave one, and a few random digits where the name was taken. What is
made otherwise has its name for a label, NAMESPACE/NAME where the namespace is not the caller's own. A slot keeps label
and id as attributes besides, which can be changed, and count more than its name; a certificate has its name only.
"""

import re
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from hsmbridge.core.identifiers import default_namespace
from hsmbridge.frontends.p11kit.numbers import Cka, Ckr
from hsmbridge.frontends.p11kit.refusals import Refused

NAME_MAX = 64
_SHORTENED = 12
"""Bytes of a label that fit into a name whatever they are."""
_OTHER = re.compile(
    rb"[^A-Za-z0-9._-]|-(?=-)|\.(?=id-|n-)|^[._-]|^shm(?=-)"
    rb"|^p11(?=\Z|[^A-Za-z0-9._-]|--|\.id-|\.n-)",
    re.ASCII | re.DOTALL,
)
_FIRST = re.compile(r"[A-Za-z0-9]", re.ASCII)
_MADE = re.compile(r"(?P<label>.*?)(?:\.id-(?P<id>(?:[0-9a-f]{2})*))?(?P<more>\.n-[0-9a-f]{4,8})?", re.ASCII)
_ESCAPE = re.compile(r"--([0-9A-F]{2})", re.ASCII)
_BEFORE = "p11"
"""Stands before what cannot begin a name, and for no label at all."""


class KeyName(NamedTuple):
    """What PKCS#11 names a key by; `id` is None where the name holds none."""

    label: bytes
    id: bytes | None


def slot_name(label: bytes, key_id: bytes | None, distinction: str = "") -> str:
    """The name of a slot for a label and an id, in the caller's own namespace.

    Without a label and an id there must be a `distinction`, 4 to 8 hexadecimal digits. Raises Refused
    (CKR_ATTRIBUTE_VALUE_INVALID) where they do not fit into a name.
    """
    name = _OTHER.sub(lambda found: b"".join(b"--%02X" % byte for byte in found[0]), label).decode("ascii")
    if not _FIRST.match(name):
        name = _BEFORE + name
    if key_id:
        name += f".id-{key_id.hex()}"
    if distinction:
        name += f".n-{distinction}"
    if len(name) > NAME_MAX:
        raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)
    return name


def fits(label: bytes, key_id: bytes | None) -> bool:
    """Whether they can be told from a name, with digits to tell it from others."""
    try:
        slot_name(label, key_id, "00000000")
    except Refused:
        return False
    return True


def new_slot_name(label: bytes, key_id: bytes | None, distinction: str = "") -> str:
    """As `slot_name`, and where they do not fit, a name that holds only what does: a slot keeps both besides."""
    try:
        return slot_name(label, key_id, distinction)
    except Refused:
        return slot_name(label[:_SHORTENED], None, distinction or secrets.token_hex(4))


def key_name(qualified: str, principal: str, attributes: Mapping[int, bytes] = MappingProxyType({})) -> KeyName:
    """Label and id of a slot or certificate, as a principal sees them: from its attributes, else from its name."""
    namespace, _, name = qualified.rpartition("/")
    made = _MADE.fullmatch(name)
    label, digits, more = (name, None, None) if made is None else (made["label"], made["id"], made["more"])
    if (label == _BEFORE and (digits or more)) or label.startswith(f"{_BEFORE}--"):
        label = label.removeprefix(_BEFORE)
    octets = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), label).encode("latin-1")
    octets = attributes.get(Cka.LABEL, octets)
    if namespace != default_namespace(principal):
        octets = f"{namespace}/".encode() + octets
    return KeyName(octets, attributes.get(Cka.ID, bytes.fromhex(digits) if digits else None))
