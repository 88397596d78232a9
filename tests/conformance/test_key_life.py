"""The life of keys: made, loaded, found again after a restart, destroyed, and gone."""

import secrets

import pytest

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import KEY_TYPES, KeyType, key_type
from hsmbridge.core.policy import Protection
from tests.conformance.independent import spki
from tests.conformance.pinned import BACKENDS, PINNED, each_backend
from tests.conformance.proof import fingerprint, permissions_of
from tests.conformance.rig import Key, Rig

each_key_type = pytest.mark.parametrize(
    ("backend", "name"), [(backend, name) for backend in BACKENDS for name in PINNED[backend].key_types]
)

each_copied = pytest.mark.parametrize(
    ("backend", "name"),
    [
        (backend, name)
        for backend in BACKENDS
        for name in PINNED[backend].copies
        if not KEY_TYPES[name].slow_to_generate
    ],
)


def _fast(rig: Rig) -> KeyType:
    """A key type of the backend that is quick to make, if it has one."""
    return key_type(min(rig.pinned.key_types, key=lambda name: KEY_TYPES[name].slow_to_generate))


def _make(rig: Rig, row: KeyType, *, ephemeral: bool = False) -> Key:
    return rig.generate(row, permissions_of(rig.pinned, row), ephemeral=ephemeral)


@each_key_type
def test_a_persistent_key_outlives_the_provider(rig: Rig, backend: str, name: str) -> None:
    key = _make(rig, key_type(name))
    before = fingerprint(rig, key)
    rig.reopen()
    assert fingerprint(rig, key) == before
    rig.destroy(key)


@each_key_type
def test_a_made_key_says_what_it_is(rig: Rig, backend: str, name: str) -> None:
    row = key_type(name)
    key = _make(rig, row, ephemeral=not row.slow_to_generate)
    assert 0 < len(key.made.reference) <= 64 * 1024
    if row.symmetric:
        assert key.made.public_key == b""
    else:
        assert spki.identifiers(key.made.public_key) == (row.spki_oid, _parameters(row))
    rig.destroy(key)


def _parameters(row: KeyType) -> str:
    """The curve stands in the parameters of EC keys only (RFC 5480, RFC 8410)."""
    return row.ec_parameters if row.ec_parameters != row.spki_oid else ""


@each_copied
def test_a_copy_of_an_ephemeral_key_outlives_that_key_and_the_provider(rig: Rig, backend: str, name: str) -> None:
    row = key_type(name)
    key = _make(rig, row, ephemeral=True)
    before, target = fingerprint(rig, key), rig.target(row, permissions_of(rig.pinned, row))
    copy = rig.make(calls.CopyCall(rig.load(key), target), target, row)
    assert copy.made.public_key == key.made.public_key
    rig.destroy(key)
    rig.reopen()
    assert fingerprint(rig, copy) == before
    rig.destroy(copy)


@each_backend
def test_a_copy_that_would_not_be_as_a_key_that_was_made_there_is_refused(rig: Rig, backend: str) -> None:
    listed = rig.ask(calls.ListCall(), list) if rig.pinned.lists else []
    for name in {
        key_type(name).family: name for name in rig.pinned.key_types if name not in rig.pinned.copies
    }.values():
        row = key_type(name)
        key = _make(rig, row, ephemeral=True)
        with pytest.raises(HsmBridgeError) as refusal:
            rig.perform(calls.CopyCall(rig.load(key), rig.target(row, permissions_of(rig.pinned, row))))
        assert refusal.value.status is Status.NOT_SUPPORTED
        rig.destroy(key)
    assert listed == (rig.ask(calls.ListCall(), list) if rig.pinned.lists else [])


@each_backend
def test_a_copy_is_of_the_same_key_type(rig: Rig, backend: str) -> None:
    row, other = (key_type(name) for name in rig.pinned.key_types[:2])
    key = _make(rig, row, ephemeral=True)
    with pytest.raises(HsmBridgeError) as refusal:
        rig.perform(calls.CopyCall(rig.load(key), rig.target(other, permissions_of(rig.pinned, other))))
    assert refusal.value.status in {Status.KEY_TYPE_MISMATCH, Status.NOT_SUPPORTED}
    rig.destroy(key)


@each_backend
def test_keys_differ(rig: Rig, backend: str) -> None:
    made = [_make(rig, _fast(rig), ephemeral=True) for _ in range(5)]
    assert len({fingerprint(rig, key) for key in made}) == 5
    for key in made:
        rig.destroy(key)


@each_backend
def test_the_protection_of_a_key_is_told(rig: Rig, backend: str) -> None:
    described = rig.ask(calls.DescribeCall(), calls.Description)
    persistent, ephemeral = _make(rig, _fast(rig)), _make(rig, _fast(rig), ephemeral=True)
    assert persistent.made.protection is described.protection
    assert ephemeral.made.protection in {Protection.TOKEN, Protection.MEMORY}
    rig.destroy(persistent)
    rig.destroy(ephemeral)


@each_backend
def test_loading_twice_gives_the_same_handle(rig: Rig, backend: str) -> None:
    for ephemeral in (False, True):
        key = _make(rig, _fast(rig), ephemeral=ephemeral)
        assert rig.load(key) == rig.load(key)
        rig.destroy(key)


@each_backend
def test_an_unloaded_key_can_be_loaded_again(rig: Rig, backend: str) -> None:
    for ephemeral in (False, True):
        key = _make(rig, _fast(rig), ephemeral=ephemeral)
        before = fingerprint(rig, key)
        first = rig.load(key)
        rig.unload(first)
        rig.unload(first)
        assert rig.load(key) != first, "a handle is not used again"
        assert fingerprint(rig, key) == before
        rig.destroy(key)


@each_backend
def test_a_destroyed_key_cannot_be_used(rig: Rig, backend: str) -> None:
    for ephemeral in (False, True):
        key = _make(rig, _fast(rig), ephemeral=ephemeral)
        handle = rig.load(key)
        rig.destroy(key)
        with pytest.raises(ProviderError) as failure:
            _use(rig, key.type, handle)
        assert failure.value.status is Status.HANDLE_UNKNOWN


@each_backend
def test_the_keys_and_streams_of_an_owner_end_together_and_nobody_elses(rig: Rig, backend: str) -> None:
    owner, other = secrets.token_bytes(16), secrets.token_bytes(16)
    row = _fast(rig)
    permissions = permissions_of(rig.pinned, row)
    mine = [rig.generate(row, permissions, ephemeral=True, owner=owner) for _ in range(3)]
    others = [rig.generate(row, permissions, ephemeral=True, owner=one) for one in (other, other, b"")]
    others.append(_make(rig, row))
    handles, others_handles = [rig.load(key) for key in mine], [rig.load(key) for key in others]
    rig.destroy(mine[1])
    streams = _streams(rig, owner), _streams(rig, other)
    rig.perform(calls.ReleaseOwnerCall(owner))
    for handle in handles:
        with pytest.raises(ProviderError) as failure:
            _use(rig, row, handle)
        assert failure.value.status is Status.HANDLE_UNKNOWN
    for key in mine:
        with pytest.raises(ProviderError) as failure:
            rig.load(key)
        assert failure.value.status is Status.KEY_MATERIAL_MISSING
        rig.destroy(key)
    for stream in streams[0]:
        with pytest.raises(ProviderError) as failure:
            rig.perform(calls.StreamUpdateCall(stream, b"data"))
        assert failure.value.status is Status.HANDLE_UNKNOWN
    rig.perform(calls.ReleaseOwnerCall(owner))
    for key, handle in zip(others, others_handles, strict=True):
        assert rig.load(key) == handle
        assert fingerprint(rig, key)
        rig.destroy(key)
    for stream in streams[1]:
        rig.perform(calls.StreamUpdateCall(stream, b"data"))
    rig.perform(calls.ReleaseOwnerCall(other))


def _streams(rig: Rig, owner: bytes) -> list[int]:
    """A digest in pieces, where there is one."""
    stream = secrets.randbits(63)
    try:
        rig.perform(calls.StreamOpenCall(stream, 0, "SHA-256", "digest", owner=owner))
    except RequestError:
        return []
    return [stream]


def _use(rig: Rig, row: KeyType, handle: int) -> None:
    name = next(one.name for one in rig.pinned.algorithms_for(row))
    rig.perform(calls.SignCall(handle, name, b"message"))


@each_backend
def test_a_destroyed_key_cannot_be_loaded_where_the_provider_held_it(rig: Rig, backend: str) -> None:
    # Where the reference is the key itself, the store ends its life by forgetting that.
    for ephemeral in (False, True):
        key = _make(rig, _fast(rig), ephemeral=ephemeral)
        rig.load(key)
        rig.destroy(key)
        if ephemeral or rig.pinned.keeps_material:
            with pytest.raises(HsmBridgeError) as failure:
                rig.load(key)
            assert failure.value.status is Status.KEY_MATERIAL_MISSING


@each_backend
def test_destroying_twice_is_fine(rig: Rig, backend: str) -> None:
    key = _make(rig, _fast(rig))
    rig.destroy(key)
    rig.destroy(key)


@each_backend
def test_destroying_what_was_never_or_half_made_is_fine(rig: Rig, backend: str) -> None:
    for name in rig.pinned.key_types:
        rig.perform(calls.DestroyCall(new_key_id(), name, b""))


@each_backend
def test_a_key_made_by_a_call_whose_answer_was_lost_can_be_destroyed(rig: Rig, backend: str) -> None:
    row = _fast(rig)
    for ephemeral in (False, True):
        key = _make(rig, row, ephemeral=ephemeral)
        rig.perform(calls.DestroyCall(key.target.key_id, row.name, b""))
        rig.persistent.discard(key.target.key_id)
        if ephemeral or rig.pinned.keeps_material:
            with pytest.raises(HsmBridgeError):
                rig.load(key)


@each_backend
def test_destroying_one_key_leaves_the_others(rig: Rig, backend: str) -> None:
    kept, gone = _make(rig, _fast(rig)), _make(rig, _fast(rig))
    before = fingerprint(rig, kept)
    rig.destroy(gone)
    assert fingerprint(rig, kept) == before
    rig.destroy(kept)


@each_backend
def test_an_ephemeral_key_dies_with_the_provider(rig: Rig, backend: str) -> None:
    key = _make(rig, _fast(rig), ephemeral=True)
    rig.load(key)
    rig.reopen()
    with pytest.raises(HsmBridgeError) as failure:
        rig.load(key)
    assert failure.value.status is Status.KEY_MATERIAL_MISSING


@each_backend
def test_handles_die_with_the_provider(rig: Rig, backend: str) -> None:
    key = _make(rig, _fast(rig))
    handle = rig.load(key)
    rig.reopen()
    with pytest.raises(ProviderError) as failure:
        _use(rig, key.type, handle)
    assert failure.value.status is Status.HANDLE_UNKNOWN
    rig.destroy(key)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if PINNED[name].lists])
def test_it_lists_exactly_the_persistent_keys(rig: Rig, backend: str) -> None:
    persistent, ephemeral = _make(rig, _fast(rig)), _make(rig, _fast(rig), ephemeral=True)
    listed = rig.ask(calls.ListCall(), list)
    assert len(listed) == len(set(listed))
    assert set(listed) == rig.persistent
    assert persistent.target.key_id in listed
    rig.destroy(persistent)
    rig.destroy(ephemeral)
    assert set(rig.ask(calls.ListCall(), list)) == rig.persistent


@each_backend
def test_a_changed_reference_or_binding_loads_nothing(rig: Rig, backend: str) -> None:
    row = _fast(rig)
    key = _make(rig, row)
    reference, binding = key.made.reference, key.target.binding
    changed = [
        (reference[:-1] + bytes((reference[-1] ^ 1,)), binding),
        (reference[:-1], binding),
        (b"", binding),
        (b"\0" * len(reference), binding),
    ]
    if not rig.pinned.keeps_material:
        changed.append((reference, binding + b"!"))
    for other_reference, other_binding in changed:
        call = calls.LoadCall(key.target.key_id, row.name, key.target.permissions, other_reference, other_binding)
        with pytest.raises(HsmBridgeError) as failure:
            rig.perform(call)
        assert failure.value.status in {
            Status.STORE_TAMPERED,
            Status.KEY_MATERIAL_MISSING,
            Status.WRONG_TOKEN,
        }
    rig.destroy(key)
