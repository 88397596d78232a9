"""Proof of what key a provider holds, by using it with an algorithm that the backend is pinned to have for it."""

from hsmbridge.core import calls
from hsmbridge.core.algorithms import Algorithm, KeyOperation, Kind
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.permissions import KeyOperationPermission as P
from tests.conformance.independent import ciphers, derivation, keys, macs, postquantum, signatures
from tests.conformance.pinned import PERMISSIONS, Case, Pinned
from tests.conformance.rig import Key, Rig

_MESSAGE = b"sixteen bytes or more of a message"
_ORDER = (Kind.MAC, Kind.AEAD, Kind.CIPHER, Kind.SIGNATURE, Kind.KEY_AGREEMENT, Kind.KEM, Kind.PUBLIC_KEY_ENCRYPTION)
_NEEDED = {
    Kind.MAC: KeyOperation.SIGN,
    Kind.AEAD: KeyOperation.ENCRYPT,
    Kind.CIPHER: KeyOperation.ENCRYPT,
    Kind.SIGNATURE: KeyOperation.SIGN,
    Kind.KEY_AGREEMENT: KeyOperation.AGREE,
    Kind.KEM: KeyOperation.DECAPSULATE,
    Kind.PUBLIC_KEY_ENCRYPTION: KeyOperation.DECRYPT,
}


def algorithm_for(pinned: Pinned, row: KeyType) -> Algorithm:
    """The algorithm by which a key of a type is proved here."""
    found = [
        one
        for kind in _ORDER
        for one in pinned.algorithms_for(row)
        if one.kind is kind and pinned.offers(one, _NEEDED[kind])
    ]
    assert found, f"{pinned.backend} makes keys of type {row.name} but can do nothing with them"
    return found[0]


def permissions_of(pinned: Pinned, row: KeyType) -> P:
    """What a key must be made for, to be proved."""
    return PERMISSIONS[algorithm_for(pinned, row).kind]


def matches(rig: Rig, key: Key, value: bytes) -> bool:
    """Whether the provider's secret key has a value, as far as using it shows."""
    return fingerprint(rig, key) == _expected(algorithm_for(rig.pinned, key.type), value)


def fingerprint(rig: Rig, key: Key) -> bytes:
    """Bytes that only this key gives: its public key, once it was seen to have the private one, or what it computes."""
    row = algorithm_for(rig.pinned, key.type)
    case = Case(rig.pinned.backend, row, key.type)
    if row.kind is Kind.MAC:
        return rig.sign(case, key, _MESSAGE)
    if row.kind in {Kind.AEAD, Kind.CIPHER}:
        sealed = rig.encrypt(case, key, bytes(row.nonce_size), _MESSAGE)
        return sealed.ciphertext + sealed.tag
    assert _has_private_key(rig, case, key)
    return key.made.public_key


def _expected(row: Algorithm, value: bytes) -> bytes:
    if row.kind is Kind.MAC:
        return macs.mac(row, value, _MESSAGE)
    return b"".join(ciphers.encrypt(row, value, bytes(row.nonce_size), _MESSAGE, b""))


def _has_private_key(rig: Rig, case: Case, key: Key) -> bool:
    row, public = case.algorithm, key.made.public_key
    if row.kind is Kind.SIGNATURE:
        return signatures.verifies(row, public, _MESSAGE, rig.sign(case, key, _MESSAGE))
    if row.kind is Kind.KEM:
        ciphertext, secret = postquantum.encapsulate(row, public)
        return rig.perform(calls.DecapsulateCall(rig.load(key), row.name, ciphertext)) == secret
    if row.kind is Kind.PUBLIC_KEY_ENCRYPTION:
        ciphertext = ciphers.oaep_encrypt(row, public, _MESSAGE[:16])
        return rig.decrypt(case, key, calls.Encrypted(b"", ciphertext)) == _MESSAGE[:16]
    peer = keys.public_key(key.type)
    secret = derivation.agree(keys.private_key(key.type), public)
    if rig.pinned.agrees_secrets:
        return rig.perform(calls.AgreeSecretCall(rig.load(key), row.name, peer)) == secret
    raise NotImplementedError("prove a key that only agrees keys by the key that it agrees")
