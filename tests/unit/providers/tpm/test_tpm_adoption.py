"""Keys that somebody else made for this TPM: files, persistent handles, and what is refused of both."""

from collections.abc import Callable
from functools import partial

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPMS_SENSITIVE_CREATE,
)
from tpm2_pytss.tsskey import TSSPrivKey

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import key_type
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.tpm import TpmProvider, TpmSettings, open_tpm
from hsmbridge.providers.tpm.lockout import lockout_state
from tests.unit.providers.tpm.conftest import Rig
from tests.unit.providers.tpm.faults import opened
from tests.unit.providers.tpm.keys import BINDING, SIGNING, Key

MESSAGE = b"a message"
P256 = algorithm("ECDSA-P256-SHA256")
HANDLE = 0x81000010
URI = f"{HANDLE:#x}"
SIGNS = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.SIGN_ENCRYPT
    | TPMA_OBJECT.NODA
)
STORAGE = SIGNS & ~TPMA_OBJECT.SIGN_ENCRYPT | TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT


def persist(tpm: TpmProvider, template: str, attributes: int, handle: int = HANDLE, password: bytes = b"") -> None:
    """What a TPM's owner does with tpm2_createprimary and tpm2_evictcontrol."""
    esapi = opened(tpm).esapi
    opened(tpm).keys.release_all()
    secret = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=password))
    public = TPM2B_PUBLIC.parse(template, objectAttributes=attributes)
    primary, *_ = esapi.create_primary(secret, public, ESYS_TR.RH_OWNER)
    esapi.evict_control(ESYS_TR.RH_OWNER, primary, handle)
    esapi.flush_context(primary)


class Adopted:
    """A key that was taken over and loaded."""

    def __init__(self, tpm: TpmProvider, type_: str, *, uri: str = "", material: bytes = b"") -> None:
        self.key_id = new_key_id()
        self.row = key_type(type_)
        self.made = tpm.adopt(KeyTarget(self.key_id, type_, SIGNING, BINDING), uri, material)
        self.handle = self.load(tpm)

    def load(self, tpm: TpmProvider, binding: bytes = BINDING) -> int:
        return tpm.load(self.key_id, self.row, SIGNING, self.made.reference, binding)

    def signs(self, tpm: TpmProvider) -> bool:
        public = load_der_public_key(self.made.public_key)
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(tpm.sign(self.handle, P256, MESSAGE, DEFAULT_SIGNATURE), MESSAGE, ec.ECDSA(hashes.SHA256()))
        return True


def refusal(act: Callable[[], object]) -> Status:
    with pytest.raises(HsmBridgeError) as refused:
        act()
    return refused.value.status


def test_a_file_for_the_owner_hierarchy_becomes_a_key(tpm: TpmProvider) -> None:
    opened(tpm).keys.release_all()
    file = TSSPrivKey.create_ecc(opened(tpm).esapi).to_pem()
    found = tpm.examine("", file)
    assert (found.key_type, P(found.permissions)) == ("EC-P256", SIGNING)
    key = Adopted(tpm, "EC-P256", material=file)
    assert key.made.public_key == found.public_key
    assert key.signs(tpm)
    assert tpm.attest(key.handle, b"nonce").statement


def test_an_adopted_key_outlives_a_restart_and_is_bound_to_its_slot(rig: Rig) -> None:
    first = open_tpm(rig.settings)
    key = Adopted(first, "EC-P256", material=TSSPrivKey.create_ecc(opened(first).esapi).to_pem())
    first.close()
    rig.restart()
    second = open_tpm(rig.settings)
    assert refusal(lambda: key.load(second, binding=b"another slot")) is Status.STORE_TAMPERED
    key.handle = key.load(second)
    assert key.signs(second)
    second.close()


def test_a_file_for_the_owner_hierarchy_loads_where_the_storage_root_key_is_another(rig: Rig) -> None:
    """Some machines come with an RSA storage root key; a file then means the ECC primary that is derived again."""
    esapi = ESAPI(rig.tcti)
    file = TSSPrivKey.create_ecc(esapi).to_pem()
    esapi.close()
    tpm = open_tpm(TpmSettings(tcti=rig.tcti, srk_handle=0x81000005))
    persist(tpm, "rsa2048:null:aes128cfb", STORAGE, 0x81000007)
    tpm.close()
    tpm = open_tpm(TpmSettings(tcti=rig.tcti, srk_handle=0x81000007))
    key = Adopted(tpm, "EC-P256", material=file)
    assert key.signs(tpm)
    rig.restart()
    assert key.signs(tpm)
    for _ in range(3):
        assert tpm.sign(Key(tpm, "EC-P256", SIGNING).handle, P256, MESSAGE, DEFAULT_SIGNATURE)
        assert key.signs(tpm)
    tpm.close()


def test_a_file_under_another_persistent_parent_loads_there(tpm: TpmProvider) -> None:
    persist(tpm, "ecc384:null:aes128cfb", STORAGE, 0x81000030)
    file = TSSPrivKey.create_ecc(opened(tpm).esapi, parent=0x81000030).to_pem()
    key = Adopted(tpm, "EC-P256", material=file)
    assert key.signs(tpm)
    assert tpm.export(key.handle, "tss2", b"").startswith(b"-----BEGIN TSS2 PRIVATE KEY-----")


def test_our_own_file_can_be_adopted_again(tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", SIGNING)
    file = tpm.export(key.handle, "tss2", b"")
    assert Adopted(tpm, "EC-P256", material=file).made.public_key == key.made.public_key


def test_a_file_of_another_tpm_is_refused(tpm: TpmProvider, shared_tpm: TpmProvider) -> None:
    opened(shared_tpm).keys.release_all()
    file = TSSPrivKey.create_ecc(opened(shared_tpm).esapi).to_pem()
    for act in (lambda: tpm.examine("", file), lambda: Adopted(tpm, "EC-P256", material=file)):
        assert refusal(act) is Status.WRONG_TOKEN


def test_a_file_under_a_parent_that_is_not_there_is_of_another_tpm(shared_tpm: TpmProvider) -> None:
    made = Key(shared_tpm, "EC-P256", SIGNING)
    known = TSSPrivKey.from_pem(shared_tpm.export(made.handle, "tss2", b""))
    file = TSSPrivKey(known.private, known.public, parent=0x8100AAAA).to_pem()
    assert refusal(lambda: shared_tpm.examine("", file)) is Status.WRONG_TOKEN


def test_an_adopted_key_of_another_tpm_does_not_load(tpm: TpmProvider, shared_tpm: TpmProvider) -> None:
    opened(tpm).keys.release_all()
    key = Adopted(tpm, "EC-P256", material=TSSPrivKey.create_ecc(opened(tpm).esapi).to_pem())
    assert refusal(lambda: key.load(shared_tpm)) is Status.WRONG_TOKEN


def test_a_file_that_needs_a_password_is_refused_and_not_tried(tpm: TpmProvider) -> None:
    opened(tpm).keys.release_all()
    file = TSSPrivKey.create_ecc(opened(tpm).esapi, password=b"password").to_pem()
    assert refusal(lambda: tpm.examine("", file)) is Status.NOT_SUPPORTED
    assert lockout_state(opened(tpm).connection).counter == 0


def test_a_persistent_key_is_used_where_it_is_and_stays_there(rig: Rig) -> None:
    tpm = open_tpm(rig.settings)
    persist(tpm, "ecc:null:null", SIGNS)
    found = tpm.examine(URI, b"")
    assert (found.key_type, P(found.permissions)) == ("EC-P256", SIGNING)
    key = Adopted(tpm, "EC-P256", uri=URI)
    assert key.made.public_key == found.public_key
    others = [Key(tpm, "EC-P256", SIGNING) for _ in range(3)]
    for other in others:
        assert key.signs(tpm)
        assert tpm.sign(other.handle, P256, MESSAGE, DEFAULT_SIGNATURE)
    rig.restart()
    assert key.signs(tpm)
    assert refusal(lambda: tpm.export(key.handle, "tss2", b"")) is Status.NOT_SUPPORTED
    tpm.destroy(key.key_id, key.row, key.made.reference)
    assert HANDLE in opened(tpm).connection.handles(0x81000000)
    tpm.close()


def test_a_persistent_key_that_was_evicted_or_exchanged_is_missing(tpm: TpmProvider) -> None:
    persist(tpm, "ecc:null:null", SIGNS)
    key = Adopted(tpm, "EC-P256", uri=URI)
    esapi = opened(tpm).esapi
    there = esapi.tr_from_tpmpublic(HANDLE)
    esapi.evict_control(ESYS_TR.RH_OWNER, there, HANDLE)
    tpm.unload(key.handle)
    assert refusal(lambda: key.load(tpm)) is Status.KEY_MATERIAL_MISSING
    persist(tpm, "ecc:null:null", SIGNS | TPMA_OBJECT.DECRYPT)
    assert refusal(lambda: key.load(tpm)) is Status.KEY_MATERIAL_MISSING


def test_a_persistent_key_that_is_not_there_is_missing(shared_tpm: TpmProvider) -> None:
    assert refusal(lambda: shared_tpm.examine("0x81004321", b"")) is Status.KEY_MATERIAL_MISSING


def test_looking_at_a_handle_disturbs_no_key_that_is_in_use_there(tpm: TpmProvider) -> None:
    persist(tpm, "ecc:null:null", SIGNS)
    first, second = Adopted(tpm, "EC-P256", uri=URI), Adopted(tpm, "EC-P256", uri=URI)
    before = opened(tpm)
    tpm.unload(first.handle)
    assert refusal(lambda: tpm.examine("0x81000001", b"")) is Status.NOT_SUPPORTED
    assert tpm.examine(URI, b"")
    assert second.signs(tpm)
    assert opened(tpm) is before


def test_a_persistent_key_that_could_lock_the_tpm_is_not_tried(tpm: TpmProvider) -> None:
    persist(tpm, "ecc:null:null", SIGNS & ~TPMA_OBJECT.NODA, password=b"password")
    assert refusal(lambda: tpm.examine(URI, b"")) is Status.NOT_SUPPORTED
    assert lockout_state(opened(tpm).connection).counter == 0


@pytest.mark.parametrize(
    ("template", "attributes"),
    [
        ("ecc:null:aes128cfb", STORAGE),
        ("ecc:ecdsa-sha256:null", SIGNS | TPMA_OBJECT.RESTRICTED),
        ("ecc:ecdsa-sha256:null", SIGNS),
        ("ecc:null:null", SIGNS & ~TPMA_OBJECT.USERWITHAUTH),
        ("ecc256:ecdaa4-sha256:null", SIGNS),
    ],
    ids=["storage key", "attestation key", "one scheme", "policy only", "another scheme"],
)
def test_a_key_that_hsmbridge_cannot_use_is_refused(tpm: TpmProvider, template: str, attributes: int) -> None:
    persist(tpm, template, attributes)
    assert refusal(lambda: tpm.examine(URI, b"")) is Status.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("uri", "material"),
    [
        ("", b""),
        (URI, b"-----BEGIN TSS2 PRIVATE KEY-----"),
        ("key", b""),
        ("0x80000001", b""),
        ("0x40000001", b""),
        ("", b"\x30\x00"),
        ("", b"-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n"),
        ("", b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"),
    ],
)
def test_what_names_no_one_key_is_refused(shared_tpm: TpmProvider, uri: str, material: bytes) -> None:
    assert refusal(lambda: shared_tpm.examine(uri, material)) is Status.INVALID_ARGUMENT


def test_a_key_becomes_only_what_it_is(tpm: TpmProvider) -> None:
    opened(tpm).keys.release_all()
    file = TSSPrivKey.create_ecc(opened(tpm).esapi).to_pem()
    for type_, permissions, status in (
        ("EC-P384", SIGNING, Status.KEY_TYPE_MISMATCH),
        ("EC-P256", SIGNING | P.DERIVE, Status.INVALID_PERMISSIONS),
        ("EC-P256", SIGNING | P.EXPORT, Status.INVALID_PERMISSIONS),
    ):
        target = KeyTarget(new_key_id(), type_, permissions, BINDING)
        assert refusal(partial(tpm.adopt, target, "", file)) is status


def test_an_unknown_form_and_a_recipient_without_sense_are_refused(shared_tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "EC-P256", SIGNING)
    assert refusal(lambda: shared_tpm.export(key.handle, "pkcs8", b"")) is Status.NOT_SUPPORTED
    assert refusal(lambda: shared_tpm.export(key.handle, "tss2", b"somebody")) is Status.INVALID_ARGUMENT
    assert refusal(lambda: shared_tpm.export(1, "tss2", b"")) is Status.HANDLE_UNKNOWN


def test_an_adopted_key_is_examined_again_by_its_reference(tpm: TpmProvider, shared_tpm: TpmProvider) -> None:
    """So the doctor asks what the TPM lets an adopted key do."""
    opened(tpm).keys.release_all()
    file = TSSPrivKey.create_ecc(opened(tpm).esapi).to_pem()
    persist(tpm, "ecc:null:null", SIGNS)
    for key in (Adopted(tpm, "EC-P256", material=file), Adopted(tpm, "EC-P256", uri=URI)):
        found = tpm.examine("", key.made.reference)
        assert (found.public_key, P(found.permissions)) == (key.made.public_key, SIGNING)
        assert refusal(partial(shared_tpm.examine, "", key.made.reference)) is Status.WRONG_TOKEN


def test_a_copy_is_a_key_of_its_own(shared_tpm: TpmProvider) -> None:
    first = Key(shared_tpm, "EC-P256", SIGNING, ephemeral=True)
    target = KeyTarget(new_key_id(), "EC-P256", SIGNING, b"its own slot")
    made = shared_tpm.copy(first.handle, target)
    assert made.public_key == first.made.public_key
    shared_tpm.destroy(first.key_id, first.row, first.made.reference)
    assert refusal(lambda: shared_tpm.load(target.key_id, first.row, SIGNING, made.reference, BINDING)) is (
        Status.STORE_TAMPERED
    )
    handle = shared_tpm.load(target.key_id, first.row, SIGNING, made.reference, b"its own slot")
    public = load_der_public_key(made.public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(shared_tpm.sign(handle, P256, MESSAGE, DEFAULT_SIGNATURE), MESSAGE, ec.ECDSA(hashes.SHA256()))


def test_a_copy_gets_no_use_that_the_key_has_not(tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", SIGNING)
    for permissions in (P.DERIVE, SIGNING | P.EXPORT):
        target = KeyTarget(new_key_id(), "EC-P256", permissions, BINDING)
        assert refusal(partial(tpm.copy, key.handle, target)) is Status.INVALID_PERMISSIONS
    persist(tpm, "ecc:null:null", SIGNS)
    there = Adopted(tpm, "EC-P256", uri=URI)
    target = KeyTarget(new_key_id(), "EC-P256", SIGNING, BINDING)
    assert refusal(lambda: tpm.copy(there.handle, target)) is Status.NOT_SUPPORTED
