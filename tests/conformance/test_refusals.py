"""What is not offered, does not fit or is not there is refused with the status that says so."""

from collections.abc import Callable, Mapping

import pytest

from hsmbridge.core import calls
from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, KeyOperation, Kind, Scheme
from hsmbridge.core.errors import ProviderError, RequestError, Status
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
from hsmbridge.core.permissions import KeyOperationPermission as P
from tests.conformance.pinned import Case, each_backend
from tests.conformance.proof import algorithm_for, permissions_of
from tests.conformance.rig import Key, Rig

_KDFS: Mapping[Scheme, KdfParameters] = {
    Scheme.HKDF: Hkdf(),
    Scheme.PBKDF2: Pbkdf2(salt=b"a salt", iterations=1000),
    Scheme.KBKDF_COUNTER: KbkdfCounter(),
    Scheme.X963: X963(),
    Scheme.TLS12_PRF: Tls12Prf(label=b"label", seed=b"seed"),
    Scheme.TLS13_EXPAND_LABEL: Tls13ExpandLabel(label=b"label"),
    Scheme.SCRYPT: Scrypt(salt=b"a salt", cost=2),
    Scheme.ARGON2ID: Argon2id(salt=b"a salt of 16 b.", memory=64),
}
_TARGET = calls.KeyTarget(bytes(16), "SECRET-256", P.DERIVE, b"binding", "", ephemeral=True)
_CALLS: Mapping[KeyOperation, Callable[[int, Algorithm], calls.ProviderCall]] = {
    KeyOperation.SIGN: lambda handle, row: calls.SignCall(handle, row.name, b"message"),
    KeyOperation.VERIFY: lambda handle, row: calls.VerifyCall(handle, row.name, b"message", b"signature"),
    KeyOperation.ENCRYPT: lambda handle, row: calls.EncryptCall(
        handle, row.name, bytes(row.nonce_size), b"plaintext", b""
    ),
    KeyOperation.DECRYPT: lambda handle, row: calls.DecryptCall(
        handle, row.name, bytes(row.nonce_size), b"ciphertext", b"", bytes(row.tag_size)
    ),
    KeyOperation.ENCAPSULATE: lambda handle, row: calls.EncapsulateCall(handle, row.name),
    KeyOperation.DECAPSULATE: lambda handle, row: calls.DecapsulateCall(handle, row.name, b"ciphertext"),
    KeyOperation.AGREE: lambda handle, row: calls.AgreeSecretCall(handle, row.name, b"peer"),
    KeyOperation.DERIVE: lambda handle, row: calls.DeriveKeyCall(handle, _KDFS[row.scheme], _TARGET),
    KeyOperation.WRAP: lambda handle, row: calls.WrapCall(handle, row.name, handle, b"", b""),
    KeyOperation.UNWRAP: lambda handle, row: calls.UnwrapCall(handle, row.name, b"material", "raw", b"", b"", _TARGET),
    KeyOperation.DIGEST: lambda handle, row: calls.DigestCall(row.name, b"data"),
}


def _call(rig: Rig, operation: KeyOperation, handle: int, row: Algorithm) -> calls.ProviderCall:
    """A call with arguments that are well-formed and mean nothing."""
    if operation is KeyOperation.AGREE and not rig.pinned.agrees_secrets:
        return calls.AgreeKeyCall(handle, row.name, b"peer", None, _TARGET)
    return _CALLS[operation](handle, row)


def _status(rig: Rig, call: calls.ProviderCall) -> Status:
    with pytest.raises((RequestError, ProviderError)) as refusal:
        rig.perform(call)
    return refusal.value.status


def _handles(rig: Rig) -> Mapping[str, int]:
    """A handle for each key type that is quick to make, or for each where none is."""
    quick = [name for name in rig.pinned.key_types if not KEY_TYPES[name].slow_to_generate]
    rows = [key_type(name) for name in quick or rig.pinned.key_types]
    return {row.name: rig.load(rig.generate(row, permissions_of(rig.pinned, row), ephemeral=True)) for row in rows}


def _any_key(rig: Rig, row: KeyType) -> Key:
    return rig.key(Case(rig.pinned.backend, algorithm_for(rig.pinned, row), row))


@each_backend
def test_what_is_not_claimed_is_not_supported(rig: Rig, backend: str) -> None:
    any_handle = next(iter(_handles(rig).values()))
    for row in ALGORITHMS.values():
        missing = [operation for operation in row.operations if not rig.pinned.offers(row, operation)]
        fitting = rig.pinned.key_types_for(row)
        # Without a key of a type that fits, it may be the key that is refused.
        allowed = {Status.NOT_SUPPORTED} if fitting else {Status.NOT_SUPPORTED, Status.KEY_TYPE_MISMATCH}
        handle = rig.load(_any_key(rig, fitting[0])) if missing and fitting else any_handle
        for operation in missing:
            status = _status(rig, _call(rig, operation, handle, row))
            assert status in allowed, f"{operation} of {row.name}: {status.name}"
    rig.reopen()


@each_backend
def test_a_key_type_that_the_token_refuses_for_an_algorithm_is_not_supported(rig: Rig, backend: str) -> None:
    for name, key_types in rig.pinned.refuses.items():
        row = ALGORITHMS[name]
        for case in (Case(backend, row, key_type(one)) for one in key_types if one in rig.pinned.key_types):
            handle = rig.load(rig.key(case))
            for operation in rig.pinned.operations[name]:
                status = _status(rig, _call(rig, operation, handle, row))
                assert status is Status.NOT_SUPPORTED, f"{operation} of {case}: {status.name}"


@each_backend
def test_an_operation_of_another_kind_of_algorithm_is_not_supported(rig: Rig, backend: str) -> None:
    handles = _handles(rig)
    for name in rig.pinned.operations:
        row = ALGORITHMS[name]
        handle = next((handles[one] for one in row.key_types if one in handles), None)
        if handle is None or row.kind is Kind.KDF:
            continue
        for operation in set(_CALLS) - set(row.operations) - {KeyOperation.DERIVE}:
            status = _status(rig, _call(rig, operation, handle, row))
            assert status is Status.NOT_SUPPORTED, f"{operation} of {row.name}: {status.name}"
    rig.reopen()


@each_backend
def test_a_key_of_another_type_does_not_fit(rig: Rig, backend: str) -> None:
    handles = _handles(rig)
    for name, operations in rig.pinned.operations.items():
        row = ALGORITHMS[name]
        other = next((handle for one, handle in handles.items() if one not in row.key_types), None)
        if not row.key_types or other is None:
            continue
        for operation in operations:
            status = _status(rig, _call(rig, operation, other, row))
            assert status is Status.KEY_TYPE_MISMATCH, f"{operation} of {row.name}: {status.name}"
    rig.reopen()


@each_backend
def test_a_handle_that_is_not_known_is_said_to_be_so(rig: Rig, backend: str) -> None:
    released = next(iter(_handles(rig).values()))
    rig.unload(released)
    for name, operations in rig.pinned.operations.items():
        row = ALGORITHMS[name]
        for operation in operations - {KeyOperation.DIGEST}:
            for handle in (0, released, 2**62 + 7):
                status = _status(rig, _call(rig, operation, handle, row))
                assert status is Status.HANDLE_UNKNOWN, f"{operation} of {name}: {status.name}"
    rig.reopen()


@each_backend
def test_a_key_type_that_is_not_claimed_is_neither_generated_nor_imported(rig: Rig, backend: str) -> None:
    for row in KEY_TYPES.values():
        target = rig.target(row, row.permissions, ephemeral=True)
        if row.name not in rig.pinned.key_types:
            assert _status(rig, calls.GenerateCall(target)) is Status.NOT_SUPPORTED, row.name
        if row.name not in rig.pinned.imports:
            assert _status(rig, calls.ImportCall(target, *_material(row))) is Status.NOT_SUPPORTED, row.name


def _material(row: KeyType) -> tuple[str, bytes]:
    return ("raw", bytes(row.bytes)) if row.symmetric else ("pkcs8", b"\x30\x00")


@each_backend
def test_material_that_is_no_such_key_is_refused(rig: Rig, backend: str) -> None:
    for name in rig.pinned.imports:
        row = key_type(name)
        target = rig.target(row, permissions_of(rig.pinned, row), ephemeral=True)
        if row.symmetric:
            wrong = [("raw", b""), ("raw", bytes(row.bytes - 1)), ("raw", bytes(row.bytes + 1))]
        else:
            wrong = [("pkcs8", b""), ("pkcs8", b"\x30\x00"), ("pkcs8", bytes(100)), ("spki", b"\x30\x00")]
        for format_, material in [*wrong, ("no such format", bytes(row.bytes))]:
            status = _status(rig, calls.ImportCall(target, format_, material))
            assert status in {Status.INVALID_ARGUMENT, Status.KEY_TYPE_MISMATCH, Status.NOT_SUPPORTED}


@each_backend
def test_a_provider_that_does_not_list_says_so(rig: Rig, backend: str) -> None:
    if not rig.pinned.lists:
        assert _status(rig, calls.ListCall()) is Status.NOT_SUPPORTED


@each_backend
def test_unloading_an_unknown_handle_is_fine(rig: Rig, backend: str) -> None:
    rig.perform(calls.UnloadCall(2**62 + 7))
