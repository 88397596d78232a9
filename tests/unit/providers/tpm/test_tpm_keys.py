"""Keys in a TPM: what is made, what its reference binds, who can use it."""

from collections.abc import Callable
from contextlib import nullcontext

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given, settings
from hypothesis import strategies as st
from tpm2_pytss import ESYS_TR, TPMA_OBJECT, TSS2_Exception

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status, StoreError
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Protection
from hsmbridge.providers.tpm import TpmProvider, open_tpm, references
from tests.unit.providers.tpm.conftest import Rig
from tests.unit.providers.tpm.keys import BINDING, SIGNING, Key

P256 = algorithm("ECDSA-P256-SHA256")


def sign(tpm: TpmProvider, handle: int) -> bytes:
    return tpm.sign(handle, P256, b"message", DEFAULT_SIGNATURE)


def attributes(key: Key) -> int:
    _, public = references.private_key_parts(references.decode(key.made.reference).private_key)
    area = public.publicArea
    return int(area.objectAttributes)


def test_it_makes_the_key_types_that_the_tpm_has(shared_tpm: TpmProvider) -> None:
    described = shared_tpm.describe()
    assert {"RSA-2048", "RSA-3072", "EC-P256", "EC-P384", "AES-128", "AES-256", "HMAC-SHA512"} <= set(
        described.key_types
    )
    assert "RSA-4096" not in described.key_types
    assert "AES-192" not in described.key_types


@pytest.mark.parametrize(
    ("type_", "permissions", "size"),
    [
        ("RSA-2048", SIGNING, 2048),
        ("EC-P256", SIGNING, 256),
        ("EC-P384", P.DERIVE, 384),
        ("EC-P521", SIGNING | P.DERIVE, 521),
    ],
)
def test_a_key_pair_answers_its_public_key(shared_tpm: TpmProvider, type_: str, permissions: P, size: int) -> None:
    made = shared_tpm.generate(KeyTarget(new_key_id(), type_, permissions, BINDING))
    public = load_der_public_key(made.public_key)
    assert isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
    assert public.key_size == size
    assert made.protection is Protection.TOKEN


@pytest.mark.parametrize("type_", ["AES-256", "HMAC-SHA384"])
def test_a_secret_key_has_no_public_key(shared_tpm: TpmProvider, type_: str) -> None:
    permissions = P.ENCRYPT | P.DECRYPT if type_.startswith("AES") else SIGNING
    assert shared_tpm.generate(KeyTarget(new_key_id(), type_, permissions, BINDING)).public_key == b""


def test_a_key_is_bound_to_its_tpm_and_has_only_the_uses_it_needs(shared_tpm: TpmProvider) -> None:
    bound = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.NODA | TPMA_OBJECT.SENSITIVEDATAORIGIN
    uses = TPMA_OBJECT.SIGN_ENCRYPT | TPMA_OBJECT.DECRYPT
    for type_, permissions, expected in (
        ("EC-P256", P.SIGN, TPMA_OBJECT.SIGN_ENCRYPT),
        ("EC-P256", P.VERIFY | P.GENERATE, TPMA_OBJECT.SIGN_ENCRYPT),
        ("EC-P256", P.DERIVE, TPMA_OBJECT.DECRYPT),
        ("EC-P256", P.DERIVE | P.SIGN, uses),
        ("AES-128", P.ENCRYPT, TPMA_OBJECT.SIGN_ENCRYPT),
        ("AES-128", P.DECRYPT, TPMA_OBJECT.DECRYPT),
        ("HMAC-SHA256", P.VERIFY, TPMA_OBJECT.SIGN_ENCRYPT),
        ("RSA-2048", P.ENCRYPT, TPMA_OBJECT.DECRYPT),
    ):
        key = Key(shared_tpm, type_, permissions)
        assert attributes(key) & bound == bound
        assert attributes(key) & uses == expected, (type_, permissions)


@pytest.mark.parametrize(
    ("type_", "permissions"),
    [
        ("EC-P256", P.GENERATE),
        ("RSA-2048", P.WRAP),
        ("HMAC-SHA256", P.DERIVE),
        ("RSA-4096", P.SIGN),
        ("Ed25519", P.SIGN),
        ("SECRET-256", P.DERIVE),
    ],
)
def test_what_a_tpm_key_cannot_be_is_refused(shared_tpm: TpmProvider, type_: str, permissions: P) -> None:
    with pytest.raises(RequestError) as refused:
        shared_tpm.generate(KeyTarget(new_key_id(), type_, permissions, BINDING))
    assert refused.value.status is Status.NOT_SUPPORTED


def test_a_signing_key_cannot_agree_and_an_agreeing_key_cannot_sign(shared_tpm: TpmProvider) -> None:
    signing = Key(shared_tpm, "EC-P256", P.SIGN)
    agreeing = Key(shared_tpm, "EC-P256", P.DERIVE)
    with pytest.raises(HsmBridgeError) as cannot_agree:
        shared_tpm.agree_secret(signing.handle, algorithm("ECDH-P256"), agreeing.made.public_key)
    with pytest.raises(HsmBridgeError) as cannot_sign:
        sign(shared_tpm, agreeing.handle)
    assert cannot_agree.value.status is Status.KEY_OPERATION_NOT_PERMITTED
    assert cannot_sign.value.status is Status.KEY_OPERATION_NOT_PERMITTED


def test_an_encrypting_key_cannot_decrypt(shared_tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "AES-128", P.ENCRYPT)
    row = algorithm("AES-128-CFB")
    encrypted = shared_tpm.encrypt(key.handle, row, bytes(16), b"plaintext", b"")
    with pytest.raises(HsmBridgeError) as refused:
        shared_tpm.decrypt(key.handle, row, bytes(16), encrypted.ciphertext, b"", b"")
    assert refused.value.status is Status.KEY_OPERATION_NOT_PERMITTED


def test_loading_twice_answers_the_same_handle(shared_tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "EC-P256", SIGNING)
    assert key.load(shared_tpm) == key.handle


def test_an_unloaded_handle_is_unknown_and_unloading_again_is_fine(shared_tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "EC-P256", SIGNING)
    for _ in range(2):
        shared_tpm.unload(key.handle)
    with pytest.raises(ProviderError) as refused:
        sign(shared_tpm, key.handle)
    assert refused.value.status is Status.HANDLE_UNKNOWN
    assert sign(shared_tpm, key.load(shared_tpm))


def test_a_destroyed_key_is_gone_from_the_tpm_and_destroying_again_is_fine(shared_tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "EC-P256", SIGNING)
    for reference in (key.made.reference, key.made.reference, b""):
        shared_tpm.destroy(key.key_id, key.row, reference)
    with pytest.raises(ProviderError) as refused:
        sign(shared_tpm, key.handle)
    assert refused.value.status is Status.HANDLE_UNKNOWN


def test_a_key_that_is_loaded_in_another_slots_place_is_refused(shared_tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "EC-P256", SIGNING)
    with pytest.raises(StoreError) as refused:
        key.load(shared_tpm, binding=b"another slot")
    assert refused.value.status is Status.STORE_TAMPERED


def test_a_key_of_another_type_than_its_record_says_is_refused(shared_tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "EC-P256", SIGNING)
    key.row = Key(shared_tpm, "EC-P384", SIGNING).row
    with pytest.raises(StoreError) as refused:
        key.load(shared_tpm)
    assert refused.value.status is Status.STORE_TAMPERED


@settings(max_examples=60)
@given(st.data())
def test_a_reference_with_one_bit_changed_is_never_obeyed(shared_tpm: TpmProvider, data: st.DataObject) -> None:
    key = Key(shared_tpm, "EC-P256", SIGNING)
    changed = bytearray(key.made.reference)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    shared_tpm.unload(key.handle)
    same = _same_key(key.made.reference, bytes(changed))
    # What the file says beside the key is no part of it: with that changed, the TPM finds it to be the same.
    with nullcontext() if same else pytest.raises(HsmBridgeError) as refused:
        assert sign(shared_tpm, key.load(shared_tpm, reference=bytes(changed)))
    if refused is not None:
        assert refused.value.status in {Status.STORE_TAMPERED, Status.STORE_VERSION, Status.WRONG_TOKEN}


def _same_key(reference: bytes, changed: bytes) -> bool:
    before = references.decode(reference)
    try:
        after = references.decode(changed)
        parts = zip(
            references.private_key_parts(before.private_key),
            references.private_key_parts(after.private_key),
            strict=True,
        )
        placed = (before.parent_name, before.parent, before.persistent)
        found = (after.parent_name, after.parent, after.persistent)
        return placed == found and all(one.marshal() == two.marshal() for one, two in parts)
    except (StoreError, TSS2_Exception):
        return False


@given(st.binary(max_size=400))
def test_bytes_that_are_no_reference_are_refused(noise: bytes) -> None:
    with pytest.raises(StoreError):
        references.private_key_parts(references.decode(noise).private_key)


@given(st.binary(max_size=400))
def test_bytes_that_are_no_wrapped_key_are_refused(noise: bytes) -> None:
    with pytest.raises(StoreError):
        references.private_key_parts(noise)


def test_a_reference_of_a_later_version_says_so(shared_tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "EC-P256", SIGNING)
    later = msgspec.structs.replace(references.decode(key.made.reference), version=2)
    with pytest.raises(StoreError) as refused:
        key.load(shared_tpm, reference=msgspec.msgpack.encode(later))
    assert refused.value.status is Status.STORE_VERSION


def test_a_key_of_another_tpm_is_neither_used_nor_destroyed(shared_tpm: TpmProvider, tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "EC-P256", SIGNING)
    assert shared_tpm.describe().token.serial != tpm.describe().token.serial
    for use in (lambda: key.load(tpm), lambda: tpm.destroy(key.key_id, key.row, key.made.reference)):
        with pytest.raises(ProviderError) as refused:
            use()
        assert refused.value.status is Status.WRONG_TOKEN


def test_a_tpm_that_was_cleared_is_another_tpm(tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", SIGNING)
    serial = tpm.describe().token.serial
    tpm._tpm.run(lambda opened: opened.esapi.clear(ESYS_TR.LOCKOUT))
    with pytest.raises(ProviderError) as refused:
        sign(tpm, key.handle)
    assert refused.value.status is Status.WRONG_TOKEN
    assert tpm.describe().token.serial != serial
    assert sign(tpm, Key(tpm, "EC-P256", SIGNING).handle)


def test_the_same_tpm_is_the_same_token_to_the_next_process(rig: Rig) -> None:
    first = open_tpm(rig.settings)
    key = Key(first, "EC-P256", SIGNING)
    token = first.describe().token
    first.close()
    second = open_tpm(rig.settings)
    assert second.describe().token == token
    assert sign(second, key.load(second))
    second.close()


def test_an_ephemeral_key_works_until_it_is_destroyed(shared_tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "EC-P256", SIGNING, ephemeral=True)
    assert sign(shared_tpm, key.handle)
    assert references.decode(key.made.reference).private_key == b""
    shared_tpm.destroy(key.key_id, key.row, key.made.reference)
    with pytest.raises(ProviderError) as refused:
        key.load(shared_tpm)
    assert refused.value.status is Status.KEY_MATERIAL_MISSING


def test_an_ephemeral_key_means_nothing_to_another_run(rig: Rig, new_rig: Callable[[], Rig]) -> None:
    first = open_tpm(rig.settings)
    key = Key(first, "EC-P256", SIGNING, ephemeral=True)
    first.close()
    second = open_tpm(rig.settings)
    with pytest.raises(ProviderError) as refused:
        key.load(second)
    assert refused.value.status is Status.KEY_MATERIAL_MISSING
    second.close()


def test_it_says_that_destroying_cannot_revoke_copies(shared_tpm: TpmProvider) -> None:
    described = shared_tpm.describe()
    assert not described.lists
    assert any("cannot revoke copies" in note for note in described.notes)
