"""Keys that may leave: only for a storage key of another TPM, only with the export permission."""

from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from tpm2_pytss import TPM2_ALG, TPMT_SYM_DEF_OBJECT, TSS2_Exception

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.tpm import TpmProvider, open_tpm
from hsmbridge.providers.tpm.device import Opened
from tests.unit.providers.tpm.conftest import Rig
from tests.unit.providers.tpm.faults import opened
from tests.unit.providers.tpm.keys import BINDING, SIGNING, Key, KnownKey

MESSAGE = b"a message"
P256 = algorithm("ECDSA-P256-SHA256")
DUPLICATE = "tpm2-duplicate"
LEAVING = SIGNING | P.EXPORT


@pytest.fixture
def other(new_rig: Callable[[], Rig]) -> Iterator[TpmProvider]:
    provider = open_tpm(new_rig().settings)
    yield provider
    provider.close()


def public_area(tpm: TpmProvider) -> bytes:
    """As tpm2_readpublic -o writes it."""

    def command(place: Opened) -> bytes:
        public, *_ = place.esapi.read_public(place.root.handle)
        return bytes(public.marshal())

    return tpm._tpm.run(command)


def spki(tpm: TpmProvider) -> bytes:
    def command(place: Opened) -> bytes:
        public, *_ = place.esapi.read_public(place.root.handle)
        return bytes(public.to_der())

    return tpm._tpm.run(command)


def pem(tpm: TpmProvider) -> bytes:
    return load_der_public_key(spki(tpm)).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("recipient", [public_area, spki, pem], ids=["public area", "SPKI", "PEM"])
def test_a_duplicate_is_taken_in_by_the_tpm_that_it_was_made_for(
    tpm: TpmProvider, other: TpmProvider, recipient: Callable[[TpmProvider], bytes]
) -> None:
    key = Key(tpm, "EC-P256", LEAVING)
    file = tpm.export(key.handle, DUPLICATE, recipient(other))
    assert file.startswith(b"-----BEGIN TSS2 PRIVATE KEY-----")
    found = other.examine("", file)
    assert (found.key_type, found.public_key) == ("EC-P256", key.made.public_key)
    for adopts in (True, False):
        target = KeyTarget(new_key_id(), "EC-P256", SIGNING, b"its place there")
        made = other.adopt(target, "", file) if adopts else other.import_key(target, DUPLICATE, file)
        handle = other.load(target.key_id, key.row, SIGNING, made.reference, b"its place there")
        signature = other.sign(handle, P256, MESSAGE, DEFAULT_SIGNATURE)
        public = load_der_public_key(key.made.public_key)
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(signature, MESSAGE, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize(
    ("type_", "permissions"), [("RSA-2048", SIGNING), ("AES-256", P.ENCRYPT), ("HMAC-SHA512", P.SIGN)]
)
def test_every_kind_of_key_can_be_made_to_leave(
    tpm: TpmProvider, other: TpmProvider, type_: str, permissions: P
) -> None:
    key = Key(tpm, type_, permissions | P.EXPORT)
    file = tpm.export(key.handle, DUPLICATE, public_area(other))
    assert other.examine("", file).key_type == type_


def test_an_imported_secret_computes_the_same_on_the_other_tpm(tpm: TpmProvider, other: TpmProvider) -> None:
    key = KnownKey(tpm, "HMAC-SHA256", LEAVING, bytes(range(32)))
    target = KeyTarget(new_key_id(), "HMAC-SHA256", SIGNING, BINDING)
    made = other.import_key(target, DUPLICATE, tpm.export(key.handle, DUPLICATE, public_area(other)))
    handle = other.load(target.key_id, key.row, SIGNING, made.reference, BINDING)
    row = algorithm("HMAC-SHA256")
    assert other.sign(handle, row, MESSAGE, DEFAULT_SIGNATURE) == tpm.sign(key.handle, row, MESSAGE, DEFAULT_SIGNATURE)


def test_a_key_that_may_leave_works_and_is_bound_like_any_other(tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", LEAVING)
    assert tpm.sign(key.handle, P256, MESSAGE, DEFAULT_SIGNATURE)
    with pytest.raises(HsmBridgeError) as refused:
        key.load(tpm, binding=b"another slot")
    assert refused.value.status is Status.STORE_TAMPERED


def test_a_key_made_without_the_export_permission_stays(tpm: TpmProvider, other: TpmProvider) -> None:
    for key in (Key(tpm, "EC-P256", SIGNING), KnownKey(tpm, "HMAC-SHA256", SIGNING, bytes(32))):
        with pytest.raises(HsmBridgeError) as refused:
            tpm.export(key.handle, DUPLICATE, public_area(other))
        assert refused.value.status is Status.KEY_OPERATION_NOT_PERMITTED


def test_the_tpm_itself_does_not_let_it_go_without_the_policy(tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", LEAVING)
    place = opened(tpm)
    none = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)
    loaded = place.keys.acquire(tpm._keys.get(key.handle))
    with pytest.raises(TSS2_Exception):
        place.esapi.duplicate(loaded, place.root.handle, None, none)


def test_a_tpm_that_it_was_not_made_for_takes_nothing(tpm: TpmProvider, other: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", LEAVING)
    file = tpm.export(key.handle, DUPLICATE, public_area(other))
    with pytest.raises(HsmBridgeError) as refused:
        tpm.examine("", file)
    assert refused.value.status is Status.WRONG_TOKEN


@pytest.mark.parametrize("recipient", [b"", b"\x30\x00", b"-----BEGIN PUBLIC KEY-----", bytes(90)])
def test_a_recipient_that_is_no_storage_key_is_refused(tpm: TpmProvider, recipient: bytes) -> None:
    key = Key(tpm, "EC-P256", LEAVING)
    with pytest.raises(HsmBridgeError) as refused:
        tpm.export(key.handle, DUPLICATE, recipient)
    assert refused.value.status is Status.INVALID_ARGUMENT


def test_a_key_that_is_no_storage_key_is_no_recipient(tpm: TpmProvider) -> None:
    key, reader = Key(tpm, "EC-P256", LEAVING), Key(tpm, "EC-P256", P.DERIVE)
    public = tpm._keys.get(reader.handle).public
    with pytest.raises(HsmBridgeError) as refused:
        tpm.export(key.handle, DUPLICATE, bytes(public.marshal()))
    assert refused.value.status is Status.INVALID_ARGUMENT


def test_nothing_is_left_in_the_slots(tpm: TpmProvider, other: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", LEAVING)
    for _ in range(5):
        tpm.export(key.handle, DUPLICATE, public_area(other))
    place = opened(tpm)
    place.keys.release_all()
    assert place.connection.handles(0x80000000) == []
    assert place.connection.handles(0x02000000) == []
