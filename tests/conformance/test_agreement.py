"""Agreed and encapsulated secrets: the other side, by another implementation, comes to the same."""

import pytest

from hsmbridge.core import calls
from hsmbridge.core.algorithms import KeyOperation, Kind, Scheme
from hsmbridge.core.errors import DecryptionFailed, RequestError, Status
from hsmbridge.core.key_types import KEY_TYPES, KeyType, key_type
from hsmbridge.core.params import Hkdf
from hsmbridge.core.permissions import KeyOperationPermission as P
from tests.conformance.independent import derivation, keys, postquantum, spki
from tests.conformance.pinned import Case, cases, each
from tests.conformance.proof import matches, permissions_of
from tests.conformance.rig import Key, Rig
from tests.conformance.samples import flipped

AGREE = (KeyOperation.AGREE,)
KEM = (KeyOperation.ENCAPSULATE, KeyOperation.DECAPSULATE)

agreeing = each(cases(Kind.KEY_AGREEMENT, needs=AGREE))
encapsulating = each(cases(Kind.KEM, needs=KEM))


def _secret(rig: Rig, case: Case, key: Key, peer: bytes) -> bytes:
    return rig.ask(calls.AgreeSecretCall(rig.load(key), case.algorithm.name, peer), bytes)


def _agree(rig: Rig, case: Case, kdf: Hkdf | None, row: KeyType, peer: bytes) -> Key:
    offered = rig.pinned.algorithms_for(row)
    target = rig.target(row, permissions_of(rig.pinned, row) if offered else row.permissions, ephemeral=True)
    call = calls.AgreeKeyCall(rig.load(rig.key(case)), case.algorithm.name, peer, kdf, target)
    return rig.make(call, target, row)


def _expected(rig: Rig, case: Case) -> bytes:
    return derivation.agree(keys.private_key(case.key_type), rig.key(case).made.public_key)


@agreeing
def test_an_agreed_secret_is_the_one_that_openssl_agrees_or_is_not_told(rig: Rig, case: Case) -> None:
    if rig.pinned.agrees_secrets:
        assert _secret(rig, case, rig.key(case), keys.public_key(case.key_type)) == _expected(rig, case)
        return
    with pytest.raises(RequestError) as refusal:
        _secret(rig, case, rig.key(case), keys.public_key(case.key_type))
    assert refusal.value.status is Status.NOT_SUPPORTED


@agreeing
def test_an_agreed_key_is_the_one_that_openssl_agrees(rig: Rig, case: Case) -> None:
    expected = _expected(rig, case)
    for name in rig.pinned.agrees_keys:
        row = key_type(name)
        if row.bytes == len(expected):
            key = _agree(rig, case, None, row, keys.public_key(case.key_type))
            assert matches(rig, key, expected)
            rig.destroy(key)


@agreeing
def test_a_key_agreed_through_hkdf_is_the_one_that_openssl_derives(rig: Rig, case: Case) -> None:
    kdf = Hkdf(algorithm="HKDF-SHA256", salt=b"salt", info=b"conformance")
    for name in rig.pinned.agrees_keys_with_kdf:
        row = key_type(name)
        key = _agree(rig, case, kdf, row, keys.public_key(case.key_type))
        assert matches(rig, key, derivation.derive(_expected(rig, case), kdf, row.bytes))
        rig.destroy(key)


@agreeing
def test_a_key_that_the_provider_cannot_keep_is_not_supported(rig: Rig, case: Case) -> None:
    peer = keys.public_key(case.key_type)
    size = len(_expected(rig, case))
    for row in KEY_TYPES.values():
        if not row.symmetric or (row.bytes == size and row.name not in rig.pinned.agrees_keys):
            _refuses(rig, case, None, row, peer, Status.NOT_SUPPORTED)
        if row.symmetric and row.name not in rig.pinned.agrees_keys_with_kdf:
            _refuses(rig, case, Hkdf(), row, peer, Status.NOT_SUPPORTED)


@agreeing
def test_without_a_kdf_the_key_has_the_size_of_the_secret(rig: Rig, case: Case) -> None:
    size = len(_expected(rig, case))
    for name in rig.pinned.agrees_keys:
        if key_type(name).bytes != size:
            _refuses(rig, case, None, key_type(name), keys.public_key(case.key_type), Status.INVALID_ARGUMENT)


def _refuses(rig: Rig, case: Case, kdf: Hkdf | None, row: KeyType, peer: bytes, status: Status) -> None:
    with pytest.raises(RequestError) as refusal:
        _agree(rig, case, kdf, row, peer)
    assert refusal.value.status is status, row.name


def _agree_anything(rig: Rig, case: Case, peer: bytes) -> None:
    if rig.pinned.agrees_secrets:
        _secret(rig, case, rig.key(case), peer)
    else:
        _agree(rig, case, None, key_type(rig.pinned.agrees_keys[0]), peer)


@agreeing
def test_a_peer_that_cannot_be_one_is_refused(rig: Rig, case: Case) -> None:
    right = keys.public_key(case.key_type)
    others = [row for row in KEY_TYPES.values() if row.name in {"EC-P256", "EC-P384", "X25519", "Ed25519", "RSA-2048"}]
    peers = [keys.public_key(row) for row in others if row.name != case.key_type.name]
    peers += [b"", b"\0", right[:-1], right + b"\0", b"not a public key"]
    if case.algorithm.scheme is Scheme.ECDH:
        peers += [
            flipped(right),
            right[: -2 * (-(-case.key_type.bits // 8)) - 1] + bytes(2 * -(-case.key_type.bits // 8) + 1),
        ]
    else:
        peers.append(spki.encode(case.key_type, bytes(len(spki.key_bits(right)))))
    for peer in peers:
        with pytest.raises(RequestError) as refusal:
            _agree_anything(rig, case, peer)
        assert refusal.value.status is Status.INVALID_ARGUMENT


# Key encapsulation


def _decapsulate(rig: Rig, case: Case, key: Key, ciphertext: bytes) -> bytes:
    return rig.ask(calls.DecapsulateCall(rig.load(key), case.algorithm.name, ciphertext), bytes)


@encapsulating
def test_it_decapsulates_what_another_implementation_encapsulated(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    ciphertext, secret = postquantum.encapsulate(case.algorithm, key.made.public_key)
    assert _decapsulate(rig, case, key, ciphertext) == secret


@each(cases(Kind.KEM, needs=KEM, imports=True))
def test_another_implementation_decapsulates_what_it_encapsulated(rig: Rig, case: Case) -> None:
    public, private = postquantum.recipient(case.key_type)
    key = rig.bring(case.key_type, P.ENCAPSULATE, "spki", public, ephemeral=True)
    made = rig.ask(calls.EncapsulateCall(rig.load(key), case.algorithm.name), calls.Encapsulated)
    assert postquantum.decapsulate(case.algorithm, private, made.ciphertext) == made.secret
    rig.destroy(key)


@encapsulating
def test_it_decapsulates_its_own_and_every_encapsulation_is_fresh(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    call = calls.EncapsulateCall(rig.load(key), case.algorithm.name)
    made = [rig.ask(call, calls.Encapsulated) for _ in range(3)]
    assert len({one.secret for one in made}) == 3
    for one in made:
        assert _decapsulate(rig, case, key, one.ciphertext) == one.secret


@encapsulating
def test_another_key_or_ciphertext_yields_another_secret(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    made = rig.ask(calls.EncapsulateCall(rig.load(key), case.algorithm.name), calls.Encapsulated)
    assert _decapsulate(rig, case, rig.key(case, 1), made.ciphertext) != made.secret
    assert _decapsulate(rig, case, key, flipped(made.ciphertext)) != made.secret


@encapsulating
def test_a_ciphertext_of_another_length_is_not_decapsulated(rig: Rig, case: Case) -> None:
    key = rig.key(case)
    made = rig.ask(calls.EncapsulateCall(rig.load(key), case.algorithm.name), calls.Encapsulated)
    for wrong in (b"", b"\0", made.ciphertext[:-1], made.ciphertext + b"\0"):
        with pytest.raises(DecryptionFailed):
            _decapsulate(rig, case, key, wrong)
