"""Derived keys: they are the ones that another implementation derives, and they stay in the provider."""

from collections.abc import Callable, Mapping
from functools import partial

import pytest

from hsmbridge.core import calls
from hsmbridge.core.algorithms import KeyOperation, Kind, Scheme
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import KEY_TYPES, KeyType, key_type
from hsmbridge.core.params import (
    X963,
    Argon2id,
    Hkdf,
    KbkdfCounter,
    KdfParameters,
    Pbkdf2,
    Scrypt,
    Tls12Prf,
    Tls13ExpandLabel,
)
from tests.conformance.independent import derivation
from tests.conformance.pinned import PINNED, Case, cases, each, each_backend
from tests.conformance.proof import matches, permissions_of
from tests.conformance.rig import Key, Rig
from tests.conformance.samples import flipped

SECRET = bytes(range(48))

_SAMPLES: Mapping[Scheme, Callable[..., KdfParameters]] = {
    Scheme.HKDF: partial(Hkdf, salt=b"a salt", info=b"an info"),
    Scheme.PBKDF2: partial(Pbkdf2, salt=b"a salt of 16 b.", iterations=1000),
    Scheme.KBKDF_COUNTER: partial(KbkdfCounter, label=b"a label", context=b"a context"),
    Scheme.X963: partial(X963, shared_info=b"shared info"),
    Scheme.SCRYPT: partial(Scrypt, salt=b"a salt", cost=16),
    Scheme.ARGON2ID: partial(Argon2id, salt=b"a salt of 16 b..", iterations=2, lanes=2, memory=32),
    Scheme.TLS12_PRF: partial(Tls12Prf, label=b"key expansion", seed=b"a seed"),
    Scheme.TLS13_EXPAND_LABEL: partial(Tls13ExpandLabel, label=b"derived", context=b"a context"),
}

deriving = each(cases(Kind.KDF, needs=(KeyOperation.DERIVE,), imports=True))
deriving_first = each(cases(Kind.KDF, needs=(KeyOperation.DERIVE,), imports=True, first=True))
from_secrets = pytest.mark.parametrize("backend", [name for name in PINNED if PINNED[name].derives_from_secrets])


def _derive(rig: Rig, case: Case, kdf: KdfParameters, row: KeyType) -> Key:
    base, _ = rig.known(case)
    target = rig.target(row, permissions_of(rig.pinned, row), ephemeral=True)
    return rig.make(calls.DeriveKeyCall(rig.load(base), kdf, target), target, row)


def _take(rig: Rig, secret: bytes, kdf: KdfParameters | None, row: KeyType) -> Key:
    target = rig.target(row, permissions_of(rig.pinned, row), ephemeral=True)
    return rig.make(calls.DeriveFromSecretCall(secret, kdf, target), target, row)


@deriving_first
def test_a_derived_key_is_the_one_that_another_implementation_derives(rig: Rig, case: Case) -> None:
    _, value = rig.known(case)
    kdf = _SAMPLES[case.algorithm.scheme](algorithm=case.algorithm.name)
    for name in rig.pinned.derives:
        row = key_type(name)
        key = _derive(rig, case, kdf, row)
        assert matches(rig, key, derivation.derive(value, kdf, row.bytes)), name
        rig.destroy(key)


@deriving
def test_the_same_derivation_gives_the_same_key_and_another_another(rig: Rig, case: Case) -> None:
    row = key_type(rig.pinned.derives[0])
    _, value = rig.known(case)
    kdf = _SAMPLES[case.algorithm.scheme](algorithm=case.algorithm.name)
    expected = derivation.derive(value, kdf, row.bytes)
    other = derivation.derive(flipped(value), kdf, row.bytes)
    first, second = _derive(rig, case, kdf, row), _derive(rig, case, kdf, row)
    assert matches(rig, first, expected)
    assert matches(rig, second, expected)
    assert not matches(rig, second, other)
    rig.destroy(first)
    assert matches(rig, second, expected)
    rig.destroy(second)


@deriving_first
def test_a_key_pair_is_not_derived(rig: Rig, case: Case) -> None:
    kdf = _SAMPLES[case.algorithm.scheme](algorithm=case.algorithm.name)
    base, _ = rig.known(case)
    for row in KEY_TYPES.values():
        if row.name not in rig.pinned.derives:
            with pytest.raises(RequestError) as refusal:
                rig.perform(calls.DeriveKeyCall(rig.load(base), kdf, rig.target(row, row.permissions)))
            assert refusal.value.status is Status.NOT_SUPPORTED


@from_secrets
def test_a_secret_of_the_right_size_becomes_the_key(rig: Rig, backend: str) -> None:
    for name in rig.pinned.derives_from_secrets:
        row = key_type(name)
        secret = bytes(range(100, 100 + row.bytes))
        key = _take(rig, secret, None, row)
        assert matches(rig, key, secret)
        rig.destroy(key)


@from_secrets
def test_a_secret_of_another_size_needs_a_kdf(rig: Rig, backend: str) -> None:
    for name in rig.pinned.derives_from_secrets:
        for size in (0, key_type(name).bytes - 1, key_type(name).bytes + 1):
            with pytest.raises(RequestError) as refusal:
                _take(rig, bytes(size), None, key_type(name))
            assert refusal.value.status is Status.INVALID_ARGUMENT


@from_secrets
def test_a_key_derived_from_a_secret_is_the_one_that_another_implementation_derives(rig: Rig, backend: str) -> None:
    for case in cases(Kind.KDF, needs=(KeyOperation.DERIVE,), first=True):
        if case.backend == backend:
            kdf = _SAMPLES[case.algorithm.scheme](algorithm=case.algorithm.name)
            row = key_type(rig.pinned.derives_from_secrets[0])
            key = _take(rig, SECRET, kdf, row)
            assert matches(rig, key, derivation.derive(SECRET, kdf, row.bytes))
            rig.destroy(key)


@each_backend
def test_a_secret_is_not_taken_where_that_is_not_pinned(rig: Rig, backend: str) -> None:
    for row in KEY_TYPES.values():
        if row.name not in rig.pinned.derives_from_secrets:
            with pytest.raises(RequestError) as refusal:
                rig.perform(calls.DeriveFromSecretCall(SECRET, Hkdf(), rig.target(row, row.permissions)))
            assert refusal.value.status is Status.NOT_SUPPORTED
