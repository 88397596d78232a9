"""Wrapped keys: they come back as they were, another implementation reads and makes them, and nothing else gets in."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hsmbridge.core import calls
from hsmbridge.core.algorithms import KeyOperation, Kind, Scheme
from hsmbridge.core.errors import DecryptionFailed, LimitError, ProviderError, RequestError, Status
from hsmbridge.core.key_types import Family, KeyType, key_type
from hsmbridge.core.permissions import KeyOperationPermission as P
from tests.conformance.independent import hpke, keys, wrapping
from tests.conformance.pinned import PINNED, Case, cases, each
from tests.conformance.proof import fingerprint, matches, permissions_of
from tests.conformance.rig import Key, Rig
from tests.conformance.samples import flipped, nonce

BOTH = (KeyOperation.WRAP, KeyOperation.UNWRAP)
KINDS = (Kind.KEY_WRAP, Kind.AEAD, Kind.PUBLIC_KEY_ENCRYPTION)
AAD = b"associated data"
THREADS = 8

wrapping_all = each(cases(*KINDS, needs=BOTH, wraps=True))
wrapping_first = each(cases(*KINDS, needs=BOTH, wraps=True, first=True))
one_of_each_kind = each(
    {(case.backend, case.algorithm.kind): case for case in cases(*KINDS, needs=BOTH, wraps=True, first=True)}.values()
)
under_known_secrets = each(
    [case for case in cases(*KINDS, needs=BOTH, wraps=True, imports=True) if case.key_type.symmetric]
)
under_known_pairs = each(
    [case for case in cases(*KINDS, needs=BOTH, wraps=True, imports=True, first=True) if not case.key_type.symmetric]
)
under_pairs = each([case for case in cases(*KINDS, needs=BOTH, wraps=True, first=True) if not case.key_type.symmetric])
semiblocks = each(
    [case for case in cases(Kind.KEY_WRAP, needs=BOTH, wraps=True) if case.algorithm.scheme is Scheme.KEY_WRAP]
)


def _aad(case: Case) -> bytes:
    return AAD if case.algorithm.takes_aad else b""


def _fits(case: Case, row: KeyType) -> bool:
    """Whether the algorithm has room for such a key: AES-KW wants whole semiblocks, RSAES-OAEP little."""
    if case.algorithm.scheme is Scheme.KEY_WRAP:
        return row.symmetric and row.bytes % 8 == 0
    if case.algorithm.scheme is Scheme.RSAES_OAEP:
        digest = {"SHA-1": 20, "SHA-256": 32, "SHA-384": 48, "SHA-512": 64}[case.algorithm.hash]
        return row.symmetric and row.bytes <= case.key_type.bits // 8 - 2 * digest - 2
    return True


def _wrapped_types(case: Case) -> Iterator[KeyType]:
    return (row for row in map(key_type, PINNED[case.backend].wraps) if _fits(case, row))


def _secrets(case: Case) -> Iterator[KeyType]:
    """One key type of each size that is taken in the clear: to another implementation they are bytes."""
    imported = PINNED[case.backend].imports
    sizes = {row.bytes: row for row in _wrapped_types(case) if row.symmetric and row.name in imported}
    return iter(sizes.values())


def _small(case: Case) -> KeyType:
    """A secret key type for tests that need no particular one."""
    return next(row for row in _wrapped_types(case) if row.symmetric and row.bytes <= 32)


def _format(row: KeyType) -> str:
    return "raw" if row.symmetric else "pkcs8"


def _leaving(rig: Rig, row: KeyType) -> P:
    return permissions_of(rig.pinned, row) | P.EXPORT


def _key(rig: Rig, row: KeyType) -> Key:
    if row.name in rig.pinned.key_types:
        return rig.generate(row, _leaving(rig, row), ephemeral=True)
    return rig.bring(row, _leaving(rig, row), _format(row), keys.private_key(row), ephemeral=True)


def _wrap(rig: Rig, case: Case, under: Key, key: Key, iv: bytes, aad: bytes) -> bytes:
    call = calls.WrapCall(rig.load(under), case.algorithm.name, rig.load(key), iv, aad)
    return rig.ask(call, bytes)


def _unwrap(
    rig: Rig, case: Case, under: Key, row: KeyType, wrapped: bytes, iv: bytes, aad: bytes, format_: str = ""
) -> Key:
    target = rig.target(row, _leaving(rig, row), ephemeral=True)
    call = calls.UnwrapCall(rig.load(under), case.algorithm.name, wrapped, format_ or _format(row), iv, aad, target)
    return rig.make(call, target, row)


@wrapping_first
def test_a_wrapped_key_comes_back_as_it_was(rig: Rig, case: Case) -> None:
    under = rig.key(case)
    for row in _wrapped_types(case):
        iv = nonce(case.algorithm.nonce_size)
        key = _key(rig, row)
        before = fingerprint(rig, key)
        wrapped = _wrap(rig, case, under, key, iv, _aad(case))
        rig.destroy(key)
        back = _unwrap(rig, case, under, row, wrapped, iv, _aad(case))
        assert back.made.public_key == key.made.public_key
        assert fingerprint(rig, back) == before, row.name
        rig.destroy(back)


@wrapping_all
def test_a_persistent_key_is_wrapped_and_unwrapped_to_a_persistent_one(rig: Rig, case: Case) -> None:
    under, row = rig.key(case), _small(case)
    iv = nonce(case.algorithm.nonce_size)
    key = rig.generate(row, _leaving(rig, row))
    wrapped = _wrap(rig, case, under, key, iv, _aad(case))
    target = rig.target(row, _leaving(rig, row))
    call = calls.UnwrapCall(rig.load(under), case.algorithm.name, wrapped, "raw", iv, _aad(case), target)
    back = rig.make(call, target, row)
    assert fingerprint(rig, back) == fingerprint(rig, key)
    rig.destroy(key)
    rig.destroy(back)


@under_known_secrets
def test_another_implementation_unwraps_to_the_same_value(rig: Rig, case: Case) -> None:
    under, secret = rig.known(case)
    for row in _secrets(case):
        value, iv = nonce(row.bytes), nonce(case.algorithm.nonce_size)
        key = rig.bring(row, _leaving(rig, row), "raw", value, ephemeral=True)
        wrapped = _wrap(rig, case, under, key, iv, _aad(case))
        assert wrapping.unwrap(case.algorithm, secret, wrapped, iv, _aad(case)) == value, row.name
        rig.destroy(key)


@under_known_secrets
def test_it_unwraps_what_another_implementation_wrapped(rig: Rig, case: Case) -> None:
    under, secret = rig.known(case)
    for row in _secrets(case):
        value, iv = nonce(row.bytes), nonce(case.algorithm.nonce_size)
        wrapped = wrapping.wrap(case.algorithm, secret, value, iv, _aad(case))
        key = _unwrap(rig, case, under, row, wrapped, iv, _aad(case))
        assert matches(rig, key, value), row.name
        rig.destroy(key)


@under_known_secrets
def test_it_unwraps_a_private_key_that_another_implementation_wrapped(rig: Rig, case: Case) -> None:
    under, secret = rig.known(case)
    for row in _wrapped_types(case):
        if row.family in {Family.RSA, Family.EC}:
            iv = nonce(case.algorithm.nonce_size)
            wrapped = wrapping.wrap(case.algorithm, secret, keys.private_key(row), iv, _aad(case))
            key = _unwrap(rig, case, under, row, wrapped, iv, _aad(case))
            assert fingerprint(rig, key) == keys.public_key(row)
            rig.destroy(key)


@under_known_pairs
def test_another_implementation_unwraps_by_the_private_key(rig: Rig, case: Case) -> None:
    public, private = _pair(case)
    under = rig.bring(case.key_type, P.WRAP, "spki", public, ephemeral=True)
    row = _small(case)
    value = nonce(row.bytes)
    key = rig.bring(row, _leaving(rig, row), "raw", value, ephemeral=True)
    wrapped = _wrap(rig, case, under, key, b"", _aad(case))
    assert wrapping.unwrap_by(case.algorithm, public, private, wrapped, _aad(case)) == value
    rig.destroy(key)
    rig.destroy(under)


def _pair(case: Case) -> tuple[bytes, bytes]:
    if case.algorithm.scheme is Scheme.HPKE:
        return hpke.recipient(case.algorithm)
    return keys.public_key(case.key_type), keys.private_key(case.key_type)


@under_pairs
def test_it_unwraps_what_another_implementation_wrapped_to_its_public_key(rig: Rig, case: Case) -> None:
    under = rig.key(case)
    row = _small(case)
    value = nonce(row.bytes)
    wrapped = wrapping.wrap_to(case.algorithm, under.made.public_key, value, _aad(case))
    key = _unwrap(rig, case, under, row, wrapped, b"", _aad(case))
    assert matches(rig, key, value)
    rig.destroy(key)


@wrapping_first
def test_whatever_is_wrong_with_a_wrapped_key_fails_alike(rig: Rig, case: Case) -> None:
    under, row, aad = rig.key(case), _small(case), _aad(case)
    iv = nonce(case.algorithm.nonce_size)
    key = _key(rig, row)
    good = _wrap(rig, case, under, key, iv, aad)
    wrongs = [flipped(good, position) for position in (0, len(good) // 2, -1)]
    wrongs += [b"", b"\0", good[:8], good[:-1], good[:-8], good + b"\0", good + bytes(8), bytes(len(good))]
    tries = [(under, wrong, iv, aad) for wrong in wrongs]
    tries.append((rig.key(case, 1), good, iv, aad))
    if case.algorithm.nonce_size:
        tries.append((under, good, flipped(iv), aad))
    if aad:
        tries += [(under, good, iv, b""), (under, good, iv, flipped(aad))]
    failures = []
    for by, wrapped, used_iv, used_aad in tries:
        with pytest.raises(DecryptionFailed) as failure:
            _unwrap(rig, case, by, row, wrapped, used_iv, used_aad)
        failures.append((failure.value.status, failure.value.message))
    assert len(set(failures)) == 1
    rig.destroy(key)


@wrapping_first
def test_a_wrapped_key_becomes_no_key_of_another_type(rig: Rig, case: Case) -> None:
    under, row, aad = rig.key(case), _small(case), _aad(case)
    iv = nonce(case.algorithm.nonce_size)
    key = _key(rig, row)
    wrapped = _wrap(rig, case, under, key, iv, aad)
    for other in map(key_type, rig.pinned.wraps):
        if other.bits != row.bits or not other.symmetric:
            with pytest.raises(DecryptionFailed):
                _unwrap(rig, case, under, other, wrapped, iv, aad)
    rig.destroy(key)


@wrapping_first
def test_a_private_key_becomes_no_key_of_another_type(rig: Rig, case: Case) -> None:
    types = [row for row in _wrapped_types(case) if not row.symmetric]
    under, aad = rig.key(case), _aad(case)
    iv = nonce(case.algorithm.nonce_size)
    for row in types[:2]:
        key = _key(rig, row)
        wrapped = _wrap(rig, case, under, key, iv, aad)
        for other in (key_type(name) for name in rig.pinned.wraps if name != row.name):
            with pytest.raises(DecryptionFailed):
                _unwrap(rig, case, under, other, wrapped, iv, aad)
        rig.destroy(key)


@wrapping_first
def test_a_form_that_the_key_type_has_not_is_refused(rig: Rig, case: Case) -> None:
    under, row = rig.key(case), _small(case)
    iv = nonce(case.algorithm.nonce_size)
    key = _key(rig, row)
    wrapped = _wrap(rig, case, under, key, iv, b"")
    for format_ in ("pkcs8", "spki", "no such format"):
        with pytest.raises(RequestError) as refusal:
            _unwrap(rig, case, under, row, wrapped, iv, b"", format_)
        assert refusal.value.status in {Status.INVALID_ARGUMENT, Status.NOT_SUPPORTED}
    rig.destroy(key)


@wrapping_first
def test_an_iv_of_another_length_is_refused(rig: Rig, case: Case) -> None:
    under = rig.key(case)
    key = _key(rig, _small(case))
    for size in {case.algorithm.nonce_size + 1, max(case.algorithm.nonce_size - 1, 1)}:
        with pytest.raises(RequestError) as refusal:
            _wrap(rig, case, under, key, bytes(size), b"")
        assert refusal.value.status is Status.INVALID_ARGUMENT
    rig.destroy(key)


@wrapping_first
def test_associated_data_are_authenticated_or_refused(rig: Rig, case: Case) -> None:
    if _aad(case):
        return  # `test_whatever_is_wrong_with_a_wrapped_key_fails_alike` has it
    key = _key(rig, _small(case))
    with pytest.raises(RequestError) as refusal:
        _wrap(rig, case, rig.key(case), key, nonce(case.algorithm.nonce_size), AAD)
    assert refusal.value.status is Status.INVALID_ARGUMENT
    rig.destroy(key)


@wrapping_first
def test_a_key_that_is_not_there_is_not_wrapped(rig: Rig, case: Case) -> None:
    iv = nonce(case.algorithm.nonce_size)
    call = calls.WrapCall(rig.load(rig.key(case)), case.algorithm.name, 2**62 + 7, iv, b"")
    with pytest.raises(ProviderError) as failure:
        rig.perform(call)
    assert failure.value.status is Status.HANDLE_UNKNOWN


@one_of_each_kind
def test_eight_threads_get_their_keys_back(rig: Rig, case: Case) -> None:
    under, row = rig.key(case), _small(case)
    start = threading.Barrier(THREADS)

    def travel(_: int) -> bool:
        key = _key(rig, row)
        start.wait(timeout=30)
        same = []
        for _ in range(3):
            iv = nonce(case.algorithm.nonce_size)
            back = _unwrap(rig, case, under, row, _wrap(rig, case, under, key, iv, _aad(case)), iv, _aad(case))
            same.append(fingerprint(rig, back) == fingerprint(rig, key))
            rig.destroy(back)
        rig.destroy(key)
        return all(same)

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(travel, range(THREADS)))


@semiblocks
def test_aes_kw_refuses_what_it_has_no_room_for(rig: Rig, case: Case) -> None:
    for row in map(key_type, rig.pinned.wraps):
        if row.symmetric and row.bytes % 8:
            key = _key(rig, row)
            with pytest.raises((RequestError, LimitError)):
                _wrap(rig, case, rig.key(case), key, b"", b"")
            rig.destroy(key)
