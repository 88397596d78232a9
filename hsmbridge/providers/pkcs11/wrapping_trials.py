"""Whether keys that the token wraps come back: a known value, and private keys with their public half."""

import secrets

from pkcs11 import Attribute, Session

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.pkcs11.importing import create_secret
from hsmbridge.providers.pkcs11.making import make_key
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.public_keys import public_key_info
from hsmbridge.providers.pkcs11.quirks import Quirks
from hsmbridge.providers.pkcs11.templates import Template, readable_template
from hsmbridge.providers.pkcs11.trials import Sample, Wrong
from hsmbridge.providers.pkcs11.wrapping import Material, Wrapped, Wrapping

_VALUE = key_type("AES-128")


def try_secret(session: Session, quirks: Quirks, row: Algorithm, under: Sample) -> None:
    """A secret of a known value, wrapped and unwrapped; with readable keys, which no real call makes."""
    value = secrets.token_bytes(_VALUE.bytes)
    wrapping = Wrapping(quirks, readable_template(), frozenset())
    iv, aad = secrets.token_bytes(row.nonce_size), b"aad" if row.takes_aad else b""
    key = create_secret(session, _VALUE, value, readable_template())
    try:
        wrapped = wrapping.wrap(
            session, under.keys, row, under.made_as, Wrapped(KeyObjects(secret=key), _VALUE), iv, aad
        )
    finally:
        key.destroy()
    if value in wrapped:
        raise Wrong
    target = KeyTarget(new_key_id(), _VALUE.name, int(P.ENCRYPT), label="probe", ephemeral=True)
    back = wrapping.unwrap(session, under.keys, row, under.made_as, Material(wrapped, iv, aad), target, _VALUE)
    try:
        if back.secret is None or bytes(back.secret[Attribute.VALUE]) != value:
            raise Wrong
    finally:
        back.destroy()


def try_private(wrapping: Wrapping, session: Session, row: Algorithm, under: Sample, private_row: KeyType) -> None:
    """A private key, wrapped and unwrapped, tells the same public key as before."""
    permissions = private_row.permissions & (P.SIGN | P.VERIFY | P.DERIVE | P.EXPORT)
    target = KeyTarget(new_key_id(), private_row.name, int(permissions), label="probe", ephemeral=True)
    key = make_key(session, private_row, target, wrapping.fixed)
    try:
        wrapped = wrapping.wrap(session, under.keys, row, under.made_as, Wrapped(key, private_row), b"", b"")
        material = Material(wrapped, b"", b"")
        back = wrapping.unwrap(session, under.keys, row, under.made_as, material, target, private_row)
        try:
            if back.public is None or key.public is None:
                raise Wrong
            if public_key_info(private_row, back.public) != public_key_info(private_row, key.public):
                raise Wrong
        finally:
            back.destroy()
    finally:
        key.destroy()


def wrapping_key(session: Session, row: KeyType, fixed: Template) -> KeyObjects:
    """A key that wraps and does nothing else, as real ones are."""
    target = KeyTarget(new_key_id(), row.name, int(P.WRAP | P.UNWRAP), label="probe", ephemeral=True)
    return make_key(session, row, target, fixed)
