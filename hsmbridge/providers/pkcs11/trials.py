"""One trial for each kind of algorithm: the token does it with a key of its own, and what comes out is compared.

A trial raises `Wrong` where the token answers something else than is right, and whatever the token raises.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import Attribute, Session

from hsmbridge.core.algorithms import Algorithm, KeyOperation, Kind, Scheme
from hsmbridge.core.errors import DecryptionFailed, SignatureInvalid
from hsmbridge.core.key_types import Family, KeyType, key_type
from hsmbridge.core.params import DEFAULT_SIGNATURE, Hkdf, KbkdfCounter, KdfParameters
from hsmbridge.providers.pkcs11 import agreement, derivation, encapsulation, encryption, mechanisms, signatures
from hsmbridge.providers.pkcs11.errors import Refusals
from hsmbridge.providers.pkcs11.importing import create_secret
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.public_keys import public_key_info
from hsmbridge.providers.pkcs11.templates import readable_template, temporary_template

_SAMPLE = b"hsmbridge tries what the token says"
_SALT, _INFO = b"salt", b"info"
_HASHES: Mapping[str, hashes.HashAlgorithm] = MappingProxyType(
    {"SHA-256": hashes.SHA256(), "SHA-384": hashes.SHA384(), "SHA-512": hashes.SHA512()}
)
_DERIVED = key_type("SECRET-256")


class Wrong(Exception):
    """The token answered, but not what is right."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What trials share.

    Attributes:
        plans: how to sign.
        wrapped_points: the token wants a peer's point in an OCTET STRING.
        refusals: how it says that data are wrong.
    """

    session: Session
    plans: signatures.SigningPlans
    wrapped_points: bool
    refusals: Refusals


@dataclass(frozen=True, slots=True)
class Sample:
    """A key of the token to try with; `made_as` differs from `row` where a smaller one stands for it."""

    row: KeyType
    made_as: KeyType
    keys: KeyObjects


def try_digest(bench: Bench, row: Algorithm) -> None:
    """A hash."""
    mechanism, expected = mechanisms.mechanism_of(row), mechanisms.hashed(row, _SAMPLE)
    if mechanism is None or bench.session.digest(_SAMPLE, mechanism=mechanism) != expected:
        raise Wrong


def _try_signature(bench: Bench, row: Algorithm, sample: Sample) -> None:
    plan = bench.plans.plan(row, DEFAULT_SIGNATURE)
    signature = signatures.sign(sample.keys, plan, _SAMPLE)
    signatures.verify(sample.keys, plan, _SAMPLE, signature, bench.refusals)
    try:
        signatures.verify(sample.keys, plan, _SAMPLE[:-1], signature, bench.refusals)
    except SignatureInvalid:
        return
    raise Wrong


def _try_encryption(bench: Bench, row: Algorithm, sample: Sample) -> None:
    nonce, aad = secrets.token_bytes(row.nonce_size), b"aad" if row.kind is Kind.AEAD else b""
    sealed = encryption.encrypt(sample.keys, row, sample.made_as, nonce, _SAMPLE, aad)
    opened = encryption.decrypt(sample.keys, row, sample.made_as, sealed, aad, bench.refusals)
    if opened != _SAMPLE:
        raise Wrong
    if row.kind is not Kind.AEAD:
        return
    try:
        encryption.decrypt(sample.keys, row, sample.made_as, sealed, b"other", bench.refusals)
    except DecryptionFailed:
        return
    raise Wrong


def _try_agreement(bench: Bench, _row: Algorithm, sample: Sample) -> None:
    if sample.keys.public is None:
        raise Wrong
    peer, expected = _agreed(public_key_info(sample.made_as, sample.keys.public))
    point = agreement.peer_point(sample.made_as, peer, wrapped=bench.wrapped_points)
    if agreement.agree_readable(sample.keys, sample.made_as, point) != expected:
        raise Wrong


def _agreed(info: bytes) -> tuple[bytes, bytes]:
    """A peer's SubjectPublicKeyInfo, and what it agrees with the holder of `info`."""
    ours = load_der_public_key(info)
    peer: ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey | x448.X448PrivateKey
    if isinstance(ours, ec.EllipticCurvePublicKey):
        peer = ec.generate_private_key(ours.curve)
        secret = peer.exchange(ec.ECDH(), ours)
    elif isinstance(ours, x25519.X25519PublicKey):
        peer = x25519.X25519PrivateKey.generate()
        secret = peer.exchange(ours)
    elif isinstance(ours, x448.X448PublicKey):
        peer = x448.X448PrivateKey.generate()
        secret = peer.exchange(ours)
    else:
        raise Wrong
    return peer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), secret


def _try_encapsulation(_bench: Bench, row: Algorithm, sample: Sample) -> None:
    made = encapsulation.encapsulate(sample.keys, row)
    if encapsulation.decapsulate(sample.keys, row, made.ciphertext) != made.secret or len(made.secret) != 32:
        raise Wrong


def _try_derivation(bench: Bench, row: Algorithm, _sample: Sample) -> None:
    kdf = _kdf(row)
    value = secrets.token_bytes(_DERIVED.bytes)
    base = create_secret(
        bench.session, _DERIVED, value, {**temporary_template(Attribute.DERIVE), **readable_template()}
    )
    try:
        derived = derivation.derive(base, kdf, _DERIVED, readable_template())
        try:
            if bytes(derived[Attribute.VALUE]) != _expected(row, kdf, value):
                raise Wrong
        finally:
            derived.destroy()
    finally:
        base.destroy()


def _kdf(row: Algorithm) -> KdfParameters:
    if row.scheme is Scheme.HKDF:
        return Hkdf(algorithm=row.name, salt=_SALT, info=_INFO)
    return KbkdfCounter(algorithm=row.name, label=_SALT, context=_INFO)


def _expected(row: Algorithm, kdf: KdfParameters, value: bytes) -> bytes:
    hash_, size = _HASHES[row.hash], _DERIVED.bytes
    if isinstance(kdf, Hkdf):
        return HKDF(hash_, size, kdf.salt, kdf.info).derive(value)
    if isinstance(kdf, KbkdfCounter):
        place = CounterLocation.BeforeFixed
        return KBKDFHMAC(hash_, Mode.CounterMode, size, 4, 4, place, kdf.label, kdf.context, None).derive(value)
    raise Wrong


TRIALS: Mapping[Kind, Callable[[Bench, Algorithm, Sample], None]] = MappingProxyType(
    {
        Kind.SIGNATURE: _try_signature,
        Kind.MAC: _try_signature,
        Kind.AEAD: _try_encryption,
        Kind.CIPHER: _try_encryption,
        Kind.PUBLIC_KEY_ENCRYPTION: _try_encryption,
        Kind.KEY_AGREEMENT: _try_agreement,
        Kind.KEM: _try_encapsulation,
        Kind.KDF: _try_derivation,
    }
)
"""By kind of algorithm. Key wrapping has its own in `wrapping_trials`."""

OPERATIONS: Mapping[Kind, tuple[KeyOperation, ...]] = MappingProxyType(
    {
        kind: tuple(one for one in kind.operations if one not in {KeyOperation.WRAP, KeyOperation.UNWRAP})
        for kind in Kind
    }
)
"""What a trial of each kind has shown."""

STANDS_FOR_ITS_FAMILY = frozenset({Family.RSA, Family.SLH_DSA})
"""Families of which one quickly made key is tried; for the others the token's word is taken."""
