"""Keys that come in the clear: taken in whole, bound like the others, refused where they are no such keys."""

import secrets
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tpm2_pytss import TPMA_OBJECT

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.errors import HsmBridgeError, RequestError, Status, StoreError
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import KEY_TYPES
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.tpm import TpmProvider, open_tpm, references
from tests.unit.providers.tpm.conftest import Rig
from tests.unit.providers.tpm.faults import before
from tests.unit.providers.tpm.keys import BINDING, SIGNING, KnownKey

MESSAGE = b"a message"
EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)


def pkcs8(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def bring(tpm: TpmProvider, type_: str, format_: str, material: bytes, permissions: P = SIGNING) -> object:
    return tpm.import_key(KeyTarget(new_key_id(), type_, permissions, BINDING), format_, material)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_an_ec_key_signs_as_the_key_it_was(shared_tpm: TpmProvider, curve: ec.EllipticCurve) -> None:
    # Some private values and coordinates begin with zeros.
    name, hash_ = {256: ("EC-P256", 256), 384: ("EC-P384", 384), 521: ("EC-P521", 512)}[curve.key_size]
    row = algorithm(f"ECDSA-P{curve.key_size}-SHA{hash_}")
    for value in (1, 2**40 + 5, secrets.randbits(250) + 1):
        private = ec.derive_private_key(value, curve)
        target = KeyTarget(new_key_id(), name, SIGNING, BINDING)
        made = shared_tpm.import_key(target, "pkcs8", pkcs8(private))
        public = private.public_key()
        assert made.public_key == public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        handle = shared_tpm.load(target.key_id, KEY_TYPES[name], SIGNING, made.reference, BINDING)
        signature = shared_tpm.sign(handle, row, MESSAGE, DEFAULT_SIGNATURE)
        public.verify(
            signature, MESSAGE, ec.ECDSA({256: hashes.SHA256(), 384: hashes.SHA384(), 512: hashes.SHA512()}[hash_])
        )
        shared_tpm.destroy(target.key_id, KEY_TYPES[name], made.reference)


def test_an_rsa_key_signs_as_the_key_it_was(shared_tpm: TpmProvider) -> None:
    key = KnownKey(shared_tpm, "RSA-2048", SIGNING, RSA)
    signature = shared_tpm.sign(key.handle, algorithm("RSA-PKCS1-SHA256"), MESSAGE, DEFAULT_SIGNATURE)
    RSA.public_key().verify(signature, MESSAGE, padding.PKCS1v15(), hashes.SHA256())


def test_a_secret_key_macs_as_the_key_it_was_also_after_a_restart(rig: Rig) -> None:
    value = secrets.token_bytes(48)
    first = open_tpm(rig.settings)
    key = KnownKey(first, "HMAC-SHA384", SIGNING, value)
    first.close()
    rig.restart()
    second = open_tpm(rig.settings)
    expected = hmac.HMAC(value, hashes.SHA384())
    expected.update(MESSAGE)
    mac = second.sign(key.load(second), algorithm("HMAC-SHA384"), MESSAGE, DEFAULT_SIGNATURE)
    assert mac == expected.finalize()
    second.close()


def test_what_is_imported_cannot_be_duplicated_unless_it_may_be_exported(shared_tpm: TpmProvider) -> None:
    for permissions in (SIGNING, SIGNING | P.EXPORT):
        target = KeyTarget(new_key_id(), "EC-P256", permissions, BINDING)
        made = shared_tpm.import_key(target, "pkcs8", pkcs8(EC))
        decoded = references.decode(made.reference)
        _, public = references.private_key_parts(decoded.private_key)
        assert references.is_bound(public, BINDING, decoded.foreign)
        assert references.is_duplicable(public, BINDING) is (P.EXPORT in permissions)
        area = public.publicArea
        assert int(area.objectAttributes) & TPMA_OBJECT.NODA


def test_an_imported_key_is_bound_to_its_slot(shared_tpm: TpmProvider) -> None:
    key = KnownKey(shared_tpm, "HMAC-SHA256", SIGNING, bytes(32))
    with pytest.raises(StoreError) as refused:
        key.load(shared_tpm, binding=b"another slot")
    assert refused.value.status is Status.STORE_TAMPERED


def test_the_material_never_goes_to_the_tpm_in_the_clear(shared_tpm: TpmProvider) -> None:
    with (
        before(shared_tpm, "create", lambda _: None) as created,
        before(shared_tpm, "import_", lambda _: None) as imported,
    ):
        KnownKey(shared_tpm, "HMAC-SHA256", SIGNING, secrets.token_bytes(32))
    assert (created, imported) == ([], [0])


WEAK_EXPONENT = rsa.generate_private_key(3, 2048)


@pytest.mark.parametrize(
    ("type_", "format_", "material", "status"),
    [
        ("EC-P256", "pkcs8", b"", Status.INVALID_ARGUMENT),
        ("EC-P256", "pkcs8", pkcs8(RSA), Status.KEY_TYPE_MISMATCH),
        ("EC-P384", "pkcs8", pkcs8(EC), Status.KEY_TYPE_MISMATCH),
        ("RSA-3072", "pkcs8", pkcs8(RSA), Status.KEY_TYPE_MISMATCH),
        ("RSA-2048", "pkcs8", pkcs8(WEAK_EXPONENT), Status.NOT_SUPPORTED),
        ("EC-P256", "raw", bytes(32), Status.INVALID_ARGUMENT),
        ("EC-P256", "spki", bytes(32), Status.NOT_SUPPORTED),
        ("HMAC-SHA256", "raw", bytes(31), Status.INVALID_ARGUMENT),
        ("HMAC-SHA256", "pkcs8", pkcs8(EC), Status.INVALID_ARGUMENT),
        ("HMAC-SHA256", "jwk", bytes(32), Status.INVALID_ARGUMENT),
        ("Ed25519", "pkcs8", pkcs8(EC), Status.NOT_SUPPORTED),
    ],
)
def test_what_is_no_such_key_is_refused(
    shared_tpm: TpmProvider, type_: str, format_: str, material: bytes, status: Status
) -> None:
    with pytest.raises(RequestError) as refused:
        bring(shared_tpm, type_, format_, material)
    assert refused.value.status is status


def test_a_refusal_does_not_quote_the_key(shared_tpm: TpmProvider) -> None:
    marked = pkcs8(EC)[:-40] + b"SECRET" * 5
    with pytest.raises(HsmBridgeError) as refused:
        bring(shared_tpm, "EC-P256", "pkcs8", marked)
    assert "SECRET" not in f"{refused.value} {refused.value.origin}"


def test_a_storage_root_key_that_changes_on_the_way_gets_no_key(tpm: TpmProvider, new_rig: Callable[[], Rig]) -> None:
    """Who answers another key's public area than the pinned one would read what is wrapped for it."""
    other = open_tpm(new_rig().settings)
    foreign = other._tpm.run(lambda opened: opened.esapi.read_public(opened.root.handle))
    opened = tpm._tpm.run(lambda opened: opened)
    opened.esapi.read_public = lambda _: foreign
    with before(tpm, "import_", lambda _: None) as imported:
        KnownKey(tpm, "HMAC-SHA256", SIGNING, bytes(32))  # on a fresh connection, to the right TPM
    assert not imported
    other.close()
