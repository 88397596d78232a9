"""Keys on the token: what they may do there, how long they stay, and what is left of half-made ones."""

import os
import secrets
from shutil import rmtree

import msgspec
import pkcs11
import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, Object

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, ResourceError, Status, StoreError
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import KEY_TYPES
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Protection
from hsmbridge.providers.pkcs11 import Pkcs11Provider
from tests.faulty_module import CKR_KEY_HANDLE_INVALID, CKR_SESSION_COUNT, FaultyModule
from tests.unit.providers.pkcs11.tokens import (
    Made,
    Tokens,
    attributes,
    generate,
    make_tokens,
    open_token,
    reader,
    session_objects,
    target_for,
)

ECDSA = algorithm("ECDSA-P256-SHA256")
USES = ("SIGN", "VERIFY", "ENCRYPT", "DECRYPT", "WRAP", "UNWRAP", "DERIVE")


def uses(seen: object) -> set[str]:
    assert isinstance(seen, dict)
    return {name for name in USES if seen.get(Attribute[name])}


@pytest.mark.parametrize(
    ("name", "permissions", "expected"),
    [
        ("EC-P256", P.SIGN, {"PrivateKey": {"SIGN"}, "PublicKey": set()}),
        ("EC-P256", P.SIGN | P.VERIFY, {"PrivateKey": {"SIGN"}, "PublicKey": {"VERIFY"}}),
        ("EC-P384", P.DERIVE, {"PrivateKey": {"DERIVE"}, "PublicKey": set()}),
        ("Ed25519", P.SIGN | P.VERIFY, {"PrivateKey": {"SIGN"}, "PublicKey": {"VERIFY"}}),
        ("RSA-2048", P.ENCRYPT | P.DECRYPT, {"PrivateKey": {"DECRYPT"}, "PublicKey": {"ENCRYPT"}}),
        ("RSA-2048", P.WRAP | P.UNWRAP, {"PrivateKey": {"UNWRAP"}, "PublicKey": {"WRAP"}}),
        ("AES-256", P.ENCRYPT, {"SecretKey": {"ENCRYPT"}}),
        ("AES-128", P.DECRYPT | P.UNWRAP, {"SecretKey": {"DECRYPT", "UNWRAP"}}),
        ("AES-192", P.SIGN | P.VERIFY | P.WRAP, {"SecretKey": {"SIGN", "VERIFY", "WRAP"}}),
        ("HMAC-SHA256", P.SIGN, {"SecretKey": {"SIGN"}}),
        ("SECRET-256", P.DERIVE, {"SecretKey": {"DERIVE"}}),
        ("AES-256", P.NONE, {"SecretKey": set()}),
    ],
)
def test_permissions_are_what_the_token_lets_the_key_do(
    provider: Pkcs11Provider, name: str, permissions: P, expected: dict[str, set[str]]
) -> None:
    key = generate(provider, name, permissions)
    with reader() as session:
        seen = attributes(session, key.id)
    assert {half: uses(of) for half, of in seen.items()} == expected
    key.destroy(provider)


@pytest.mark.parametrize("name", ["EC-P256", "RSA-2048", "AES-256", "HMAC-SHA384"])
@pytest.mark.parametrize("export", [False, True])
def test_no_key_is_readable_and_only_one_with_export_can_be_wrapped(
    provider: Pkcs11Provider, name: str, export: bool
) -> None:
    key = generate(provider, name, P.SIGN | P.EXPORT if export else P.SIGN)
    with reader() as session:
        seen = attributes(session, key.id)
    secret = seen.get("PrivateKey") or seen["SecretKey"]
    assert secret[Attribute.SENSITIVE] is True
    assert secret[Attribute.EXTRACTABLE] is export
    assert secret[Attribute.PRIVATE] is True
    key.destroy(provider)


def test_keys_carry_the_store_id_and_a_label_that_is_recognised(provider: Pkcs11Provider) -> None:
    key = generate(provider, "EC-P256")
    with reader() as session:
        seen = attributes(session, key.id)
    assert {half[Attribute.LABEL] for half in seen.values()} == {"hsmbridge:uid-0/web"}
    assert {half[Attribute.TOKEN] for half in seen.values()} == {True}
    assert key.key.protection is Protection.TOKEN
    key.destroy(provider)


@pytest.mark.parametrize("name", ["EC-P256", "AES-256"])
def test_who_reaches_the_token_past_the_daemon_cannot_add_a_use(provider: Pkcs11Provider, name: str) -> None:
    key = generate(provider, name, P.NONE)
    with reader() as session:
        for item in list(session.get_objects({Attribute.ID: key.id})):
            with pytest.raises(pkcs11.PKCS11Error):
                item[Attribute.DERIVE] = True
            with pytest.raises(pkcs11.PKCS11Error):
                item.copy({Attribute.DERIVE: True})
        assert [uses(half) for half in attributes(session, key.id).values()] == [set()] * (
            1 if name == "AES-256" else 2
        )
    key.destroy(provider)


def test_a_key_survives_the_provider(provider: Pkcs11Provider) -> None:
    key = generate(provider, "EC-P256")
    signature = provider.sign(key.load(provider), ECDSA, b"before", DEFAULT_SIGNATURE)
    provider.close()
    again = open_token()
    again.verify(key.load(again), ECDSA, b"before", signature, DEFAULT_SIGNATURE)
    assert key.id in again.list_keys()
    key.destroy(again)
    assert key.id not in again.list_keys()
    again.close()


def test_the_public_key_is_that_of_the_token(provider: Pkcs11Provider) -> None:
    for name, row in KEY_TYPES.items():
        if name in provider.describe().key_types and not row.symmetric and row.bits <= 2048:
            key = generate(provider, name)
            load_der_public_key(key.key.public_key)
            key.destroy(provider)


def test_loading_gives_the_same_handle_until_it_is_unloaded(provider: Pkcs11Provider) -> None:
    key = generate(provider, "EC-P256")
    handle = key.load(provider)
    assert key.load(provider) == handle
    provider.unload(handle)
    provider.unload(handle)
    assert key.load(provider) != handle
    with pytest.raises(ProviderError) as refusal:
        provider.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)
    assert refusal.value.status is Status.HANDLE_UNKNOWN
    key.destroy(provider)


def test_a_destroyed_key_is_missing_and_may_be_destroyed_again(provider: Pkcs11Provider) -> None:
    key = generate(provider, "EC-P256")
    handle = key.load(provider)
    key.destroy(provider)
    key.destroy(provider)
    with pytest.raises(ProviderError) as refusal:
        key.load(provider)
    assert refusal.value.status is Status.KEY_MATERIAL_MISSING
    assert "'lab'" in refusal.value.message
    with pytest.raises(ProviderError):
        provider.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)


def test_a_key_that_another_program_removed_is_missing(provider: Pkcs11Provider) -> None:
    key = generate(provider, "EC-P256")
    handle = key.load(provider)
    provider.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)
    with reader() as session:
        for item in list(session.get_objects({Attribute.ID: key.id})):
            item.destroy()
    with pytest.raises(ProviderError) as refusal:
        provider.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)
    assert refusal.value.status is Status.KEY_MATERIAL_MISSING


def test_an_object_that_another_program_put_there_under_the_same_id_is_not_used(provider: Pkcs11Provider) -> None:
    key = generate(provider, "AES-128", P.ENCRYPT)
    provider.close()
    again = open_token()
    with reader() as session:
        planted = session.generate_key(pkcs11.KeyType.AES, 128, id=key.id, store=True)
        with pytest.raises(ProviderError, match="Two objects"):
            key.load(again)
        planted.destroy()
    key.load(again)
    key.destroy(again)
    again.close()


def test_a_planted_object_is_not_removed_with_ours(provider: Pkcs11Provider) -> None:
    key = generate(provider, "AES-128", P.ENCRYPT)
    with reader() as session:
        planted = session.generate_key(pkcs11.KeyType.AES, 128, id=key.id, label="theirs", store=True)
        assert key.id in provider.list_keys()
        key.destroy(provider)
        assert planted[Attribute.LABEL] == "theirs"
        assert key.id not in provider.list_keys()
        planted.destroy()


# --- half-made keys ------------------------------------------------------------------------------------------------


def test_a_half_made_pair_cannot_be_loaded_and_is_swept(
    provider: Pkcs11Provider, faulty_module: FaultyModule, tokens: Tokens
) -> None:
    clean = tokens.files()
    failing = open_token(module=faulty_module.path)
    target = target_for("EC-P256")
    faulty_module.halve(times=9)
    with pytest.raises(ProviderError) as failure:
        failing.generate(target)
    assert failure.value.status is Status.PROVIDER_FAILED
    failing.close()

    assert target.key_id in provider.list_keys()
    pretended = generate(provider, "EC-P256")
    reference = msgspec.msgpack.decode(pretended.key.reference)
    reference[2] = target.key_id
    half = Made(
        target,
        KEY_TYPES["EC-P256"],
        msgspec.structs.replace(pretended.key, reference=msgspec.msgpack.encode(reference)),
    )
    with pytest.raises(ProviderError) as refusal:
        half.load(provider)
    assert refusal.value.status is Status.KEY_MATERIAL_MISSING

    provider.destroy(target.key_id, KEY_TYPES["EC-P256"], b"")
    pretended.destroy(provider)
    assert target.key_id not in provider.list_keys()
    assert tokens.files() == clean


def test_destroying_what_was_never_made_is_fine(provider: Pkcs11Provider) -> None:
    provider.destroy(new_key_id(), KEY_TYPES["EC-P256"], b"")


def test_a_pair_whose_reply_was_lost_is_made_once(faulty: Pkcs11Provider, faulty_module: FaultyModule) -> None:
    faulty_module.fail("C_GenerateKeyPair", 0x30, done=True)
    key = generate(faulty, "EC-P256")
    assert faulty_module.pending("C_GenerateKeyPair") == 0
    faulty.sign(key.load(faulty), ECDSA, b"", DEFAULT_SIGNATURE)
    key.destroy(faulty)


def test_an_empty_object_file_as_a_crash_leaves_it_does_no_harm(provider: Pkcs11Provider, tokens: Tokens) -> None:
    (token,) = (tokens.directory / "tokens").iterdir()
    empty = token / "00000000-0000-0000-0000-000000000000.object"
    empty.touch()
    key = generate(provider, "EC-P256")
    assert provider.list_keys() == [key.id]
    key.destroy(provider)
    empty.unlink()


def test_keys_of_others_are_neither_listed_nor_removed(provider: Pkcs11Provider) -> None:
    with reader() as session:
        theirs = session.generate_key(pkcs11.KeyType.AES, 128, id=os.urandom(16), label="theirs", store=True)
        their_id = bytes(theirs.id)
        assert their_id not in provider.list_keys()
        provider.destroy(their_id, KEY_TYPES["AES-128"], b"")
        assert [item[Attribute.LABEL] for item in _all(session, their_id)] == ["theirs"]
        theirs.destroy()


def _all(session: pkcs11.Session, key_id: bytes) -> list[Object]:
    return list(session.get_objects({Attribute.ID: key_id}))


# --- the right token -----------------------------------------------------------------------------------------------


def test_a_key_of_another_token_is_refused_and_not_removed() -> None:
    two = make_tokens("here", "there")
    with two.current():
        here, there = open_token("here"), open_token("there")
        key = generate(here, "EC-P256")
        for use in (key.load, key.destroy):
            with pytest.raises(ProviderError) as refusal:
                use(there)
            assert refusal.value.status is Status.WRONG_TOKEN
            assert two.serials[0] in refusal.value.message
            assert "'there'" in refusal.value.message
        assert key.load(here)
        here.close()
        there.close()
    rmtree(two.directory)


@pytest.mark.parametrize("reference", [b"", b"\x00", b"\xff" * 40, msgspec.msgpack.encode([1, "x"]), b"\x95" * 10_000])
def test_a_reference_that_is_none_is_tampering(provider: Pkcs11Provider, reference: bytes) -> None:
    with pytest.raises(StoreError) as refusal:
        provider.load(new_key_id(), KEY_TYPES["EC-P256"], 0, reference, b"")
    assert refusal.value.status is Status.STORE_TAMPERED


def test_a_reference_of_another_key_is_tampering(provider: Pkcs11Provider) -> None:
    one, other = generate(provider, "EC-P256"), generate(provider, "EC-P256")
    one.load(provider)
    for key_id, row in ((one.id, other.row), (other.id, KEY_TYPES["EC-P384"])):
        with pytest.raises(StoreError) as refusal:
            provider.load(key_id, row, 0, other.key.reference, b"")
        assert refusal.value.status is Status.STORE_TAMPERED
    one.destroy(provider)
    other.destroy(provider)


def test_a_reference_of_a_later_version_says_so(provider: Pkcs11Provider) -> None:
    key = generate(provider, "AES-128")
    fields = msgspec.msgpack.decode(key.key.reference)
    fields[0] = 2
    with pytest.raises(StoreError) as refusal:
        provider.load(key.id, key.row, 0, msgspec.msgpack.encode(fields), b"")
    assert refusal.value.status is Status.STORE_VERSION
    key.destroy(provider)


# --- ephemeral keys ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["EC-P256", "AES-256"])
def test_an_ephemeral_key_leaves_nothing_on_the_token(provider: Pkcs11Provider, tokens: Tokens, name: str) -> None:
    before = tokens.files()
    key = generate(provider, name, ephemeral=True)
    assert key.load(provider)
    assert tokens.files() == before
    assert key.id not in provider.list_keys()
    key.destroy(provider)
    with pytest.raises(ProviderError):
        key.load(provider)


def test_an_ephemeral_key_ends_with_its_provider(provider: Pkcs11Provider) -> None:
    key = generate(provider, "EC-P256", ephemeral=True)
    provider.sign(key.load(provider), ECDSA, b"", DEFAULT_SIGNATURE)
    provider.close()
    again = open_token()
    with pytest.raises(ProviderError, match="ephemeral") as refusal:
        key.load(again)
    assert refusal.value.status is Status.KEY_MATERIAL_MISSING
    key.destroy(again)
    again.close()


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.all)])
def test_the_ephemeral_keys_of_an_owner_leave_the_token_at_one_stroke(
    faulty: Pkcs11Provider, faulty_module: FaultyModule, count: int
) -> None:
    owner, other = secrets.token_bytes(16), secrets.token_bytes(16)
    with reader(module=faulty_module.path) as session:
        before = len(session_objects(session))
        kept = _generate_for(faulty, other)
        keys = [_generate_for(faulty, owner) for _ in range(count)]
        for key in keys[::100]:
            faulty.encrypt(key.load(faulty), algorithm("AES-256-CTR"), bytes(16), b"in use", b"")
        assert len(session_objects(session)) == before + count + 1
        destroyed, closed = faulty_module.calls("C_DestroyObject"), faulty_module.calls("C_CloseSession")
        faulty.release_owner(owner)
        assert len(session_objects(session)) == before + 1
    assert faulty_module.calls("C_CloseSession") - closed == 2, "the owner's, and the reader's own"
    assert faulty_module.calls("C_DestroyObject") == destroyed
    assert kept.load(faulty)
    with pytest.raises(ProviderError, match="ephemeral"):
        keys[-1].load(faulty)
    with pytest.raises(ResourceError) as refusal:
        _generate_for(faulty, owner)
    assert refusal.value.status is Status.RESOURCE_NOT_FOUND


def test_a_token_without_a_session_for_every_owner_frees_their_keys_one_by_one(
    faulty: Pkcs11Provider, faulty_module: FaultyModule
) -> None:
    owner, nobodys = secrets.token_bytes(16), generate(faulty, "AES-256", ephemeral=True)
    with reader(module=faulty_module.path) as session:
        before = len(session_objects(session))
        keys = []
        for _ in range(3):
            faulty_module.fail("C_OpenSession", CKR_SESSION_COUNT)
            keys.append(_generate_for(faulty, owner))
        keys[0].destroy(faulty)
        assert len(session_objects(session)) == before + 2
        faulty.release_owner(owner)
        assert len(session_objects(session)) == before
    for key in keys:
        with pytest.raises(ProviderError, match="ephemeral"):
            key.load(faulty)
    assert nobodys.load(faulty)


def test_an_ephemeral_key_is_destroyed_without_a_search(faulty: Pkcs11Provider, faulty_module: FaultyModule) -> None:
    keys = [_generate_for(faulty, secrets.token_bytes(16)) for _ in range(3)]
    with reader(module=faulty_module.path) as session:
        there = len(session_objects(session))
        searches = faulty_module.calls("C_FindObjectsInit")
        for key in keys:
            key.destroy(faulty)
        assert faulty_module.calls("C_FindObjectsInit") == searches
        assert len(session_objects(session)) == there - len(keys)


def _generate_for(provider: Pkcs11Provider, owner: bytes) -> Made:
    target = msgspec.structs.replace(target_for("AES-256", ephemeral=True), owner=owner)
    return Made(target, KEY_TYPES["AES-256"], provider.generate(target))


# --- what cannot be made -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["X25519", "ML-DSA-65", "ChaCha20"])
def test_a_key_type_that_the_token_lacks_is_refused(provider: Pkcs11Provider, name: str) -> None:
    with pytest.raises(RequestError) as refusal:
        generate(provider, name)
    assert refusal.value.status is Status.NOT_SUPPORTED


def test_a_full_token_says_so(faulty: Pkcs11Provider, faulty_module: FaultyModule) -> None:
    faulty_module.fail("C_GenerateKey", 0x31)
    with pytest.raises(HsmBridgeError, match="no room left"):
        generate(faulty, "AES-128")


def test_a_key_is_looked_for_once_however_often_it_is_used(faulty: Pkcs11Provider, faulty_module: FaultyModule) -> None:
    others = [generate(faulty, "AES-128") for _ in range(20)]
    key = generate(faulty, "EC-P256")
    handle = key.load(faulty)
    faulty.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)
    functions = ("C_FindObjectsInit", "C_FindObjects", "C_GetAttributeValue", "C_OpenSession", "C_SignInit")
    before = [faulty_module.calls(name) for name in functions]
    for _ in range(50):
        faulty.sign(key.load(faulty), ECDSA, b"", DEFAULT_SIGNATURE)
    assert [faulty_module.calls(name) - then for name, then in zip(functions, before, strict=True)] == [0, 0, 0, 0, 50]
    for one in (key, *others):
        one.destroy(faulty)


def test_a_handle_that_went_stale_is_found_again(faulty: Pkcs11Provider, faulty_module: FaultyModule) -> None:
    key = generate(faulty, "EC-P256")
    handle = key.load(faulty)
    faulty_module.fail("C_SignInit", CKR_KEY_HANDLE_INVALID)
    before = faulty_module.calls("C_FindObjectsInit")
    faulty.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)
    assert faulty_module.calls("C_FindObjectsInit") == before + 1
    faulty.sign(handle, ECDSA, b"", DEFAULT_SIGNATURE)
    assert faulty_module.calls("C_FindObjectsInit") == before + 1
    key.destroy(faulty)


@pytest.mark.parametrize("ephemeral", [False, True])
@pytest.mark.parametrize("function", ["C_DeriveKey", "C_UnwrapKey", "C_CopyObject"])
def test_a_stale_handle_of_the_key_that_another_is_made_with_is_found_again(
    faulty: Pkcs11Provider, faulty_module: FaultyModule, function: str, ephemeral: bool
) -> None:
    ours, under = generate(faulty, "EC-P256", P.DERIVE), generate(faulty, "AES-256", P.WRAP | P.UNWRAP)
    what = generate(faulty, "AES-256", P.ENCRYPT | P.EXPORT)
    base, outer, inner = ours.load(faulty), under.load(faulty), what.load(faulty)
    wrapped = faulty.wrap(outer, algorithm("AES-256-KW"), inner, b"", b"")

    def make() -> None:
        target = target_for("AES-256", P.ENCRYPT, ephemeral=ephemeral)
        match function:
            case "C_DeriveKey":
                made = faulty.agree_key(base, algorithm("ECDH-P256"), ours.key.public_key, None, target)
            case "C_UnwrapKey":
                made = faulty.unwrap(outer, algorithm("AES-256-KW"), wrapped, "raw", b"", b"", target)
            case _:
                with pytest.raises(RequestError, match="makes no copy"):  # SoftHSM; what another answers, comes first
                    faulty.copy(inner, target)
                return
        Made(target, what.row, made).destroy(faulty)

    def searches() -> int:
        before = faulty_module.calls("C_FindObjectsInit")
        make()
        return faulty_module.calls("C_FindObjectsInit") - before

    make()  # this session has found it
    usual = searches()
    faulty_module.fail(function, CKR_KEY_HANDLE_INVALID)
    assert searches() == usual + 2  # for what the first attempt may have left, and for the key
    assert searches() == usual
    for key in (ours, under, what):
        key.destroy(faulty)
