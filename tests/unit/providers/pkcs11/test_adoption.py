"""Keys that somebody else made on the token: found by their URI, used where they are, refused where that is unclear."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pkcs11
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import NameOID
from pkcs11 import Attribute, MechanismFlag, ObjectClass, Session
from pkcs11.util.ec import encode_named_curve_parameters

from hsmbridge.core.algorithms import ALGORITHMS
from hsmbridge.core.calls import OWN_REFERENCE, KeyTarget, MadeKey
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import KEY_TYPES
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.pkcs11 import Pkcs11Provider
from tests.unit.providers.pkcs11.tokens import generate, reader

MESSAGE = b"a message"
ECDSA = ALGORITHMS["ECDSA-P256-SHA256"]
GCM = ALGORITHMS["AES-256-GCM"]


@pytest.fixture
def theirs(provider: Pkcs11Provider) -> Iterator[Session]:
    """Somebody else's session on the token; whatever is not of hsmbridge is gone at the end."""
    with reader() as session:
        yield session
        for item in list(session.get_objects({Attribute.TOKEN: True})):
            item.destroy()


def make_pair(session: Session, label: str = "old", id_: bytes = b"\x01", **private: object) -> None:
    domain = session.create_domain_parameters(
        pkcs11.KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True
    )
    domain.generate_keypair(
        id=id_,
        label=label,
        store=True,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        private_template={Attribute[name]: value for name, value in private.items()},
    )


def make_secret(session: Session, label: str = "secret", id_: bytes = b"\x02") -> None:
    uses = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
    session.generate_key(pkcs11.KeyType.AES, 256, id=id_, label=label, store=True, capabilities=uses)


def target_for(name: str, permissions: P) -> KeyTarget:
    return KeyTarget(new_key_id(), name, int(permissions), b"binding", "uid-0/old")


def adopt(provider: Pkcs11Provider, uri: str, name: str, permissions: P) -> tuple[KeyTarget, MadeKey]:
    target = target_for(name, permissions)
    return target, provider.adopt(target, uri, b"")


def load(provider: Pkcs11Provider, target: KeyTarget, made: MadeKey) -> int:
    row = KEY_TYPES[target.key_type]
    return provider.load(target.key_id, row, target.permissions, made.reference, target.binding)


def refused(provider: Pkcs11Provider, uri: str) -> Status:
    with pytest.raises(HsmBridgeError) as refusal:
        provider.examine(uri, b"")
    return refusal.value.status


def test_it_says_that_it_adopts(provider: Pkcs11Provider) -> None:
    assert provider.describe().adopts
    assert not provider.describe().attests


def test_a_pair_is_examined_for_what_its_attributes_say(provider: Pkcs11Provider, theirs: Session) -> None:
    make_pair(theirs)
    found = provider.examine("pkcs11:object=old;type=private", b"")
    assert (found.key_type, found.label) == ("EC-P256", "old")
    assert P(found.permissions) == P.SIGN | P.VERIFY
    load_der_public_key(found.public_key)


def test_an_extractable_key_may_be_exported_unless_only_trusted_keys_take_it_out(
    provider: Pkcs11Provider, theirs: Session
) -> None:
    make_pair(theirs, "free", b"\x0a", EXTRACTABLE=True)
    make_pair(theirs, "kept", b"\x0b", EXTRACTABLE=True, WRAP_WITH_TRUSTED=True)
    assert P.EXPORT in P(provider.examine("pkcs11:object=free", b"").permissions)
    assert P.EXPORT not in P(provider.examine("pkcs11:object=kept", b"").permissions)


def test_an_adopted_pair_signs_where_it_is(provider: Pkcs11Provider, theirs: Session) -> None:
    make_pair(theirs)
    target, made = adopt(provider, "pkcs11:object=old;id=%01;type=private", "EC-P256", P.SIGN | P.VERIFY)
    handle = load(provider, target, made)
    signature = provider.sign(handle, ECDSA, MESSAGE, DEFAULT_SIGNATURE)
    public = load_der_public_key(made.public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature, MESSAGE, ec.ECDSA(hashes.SHA256()))
    provider.verify(handle, ECDSA, MESSAGE, signature, DEFAULT_SIGNATURE)


def test_an_adopted_secret_encrypts_where_it_is(provider: Pkcs11Provider, theirs: Session) -> None:
    make_secret(theirs)
    target, made = adopt(provider, "pkcs11:object=secret;type=secret-key", "AES-256", P.ENCRYPT | P.DECRYPT)
    handle = load(provider, target, made)
    sealed = provider.encrypt(handle, GCM, bytes(12), MESSAGE, b"")
    assert provider.decrypt(handle, GCM, sealed.nonce, sealed.ciphertext, b"", sealed.tag) == MESSAGE
    assert made.public_key == b""


def test_a_private_key_with_a_certificate_beside_it_is_adopted_and_does_not_verify(
    provider: Pkcs11Provider, theirs: Session
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    theirs.create_object(
        {
            Attribute.CLASS: ObjectClass.PRIVATE_KEY,
            Attribute.KEY_TYPE: pkcs11.KeyType.EC,
            Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1"),
            Attribute.VALUE: key.private_numbers().private_value.to_bytes(32),
            Attribute.ID: b"\x03",
            Attribute.LABEL: "card",
            Attribute.TOKEN: True,
            Attribute.SIGN: True,
        }
    )
    assert refused(provider, "pkcs11:id=%03") is Status.INVALID_ARGUMENT
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "card")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    theirs.create_object(
        {
            Attribute.CLASS: ObjectClass.CERTIFICATE,
            Attribute.CERTIFICATE_TYPE: pkcs11.CertificateType.X_509,
            Attribute.ID: b"\x03",
            Attribute.TOKEN: True,
            Attribute.SUBJECT: name.public_bytes(),
            Attribute.VALUE: builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER),
        }
    )
    found = provider.examine("pkcs11:id=%03", b"")
    assert found.public_key == key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert P(found.permissions) == P.SIGN
    target, made = adopt(provider, "pkcs11:id=%03", "EC-P256", P.SIGN)
    signature = provider.sign(load(provider, target, made), ECDSA, MESSAGE, DEFAULT_SIGNATURE)
    key.public_key().verify(signature, MESSAGE, ec.ECDSA(hashes.SHA256()))


def test_a_uri_that_fits_two_keys_is_ambiguous_and_a_longer_one_is_not(
    provider: Pkcs11Provider, theirs: Session
) -> None:
    make_pair(theirs, "twin", b"\x01")
    make_pair(theirs, "twin", b"\x04")
    with pytest.raises(RequestError, match="2 keys on the token fit") as refusal:
        provider.examine("pkcs11:object=twin", b"")
    assert refusal.value.status is Status.INVALID_ARGUMENT
    assert provider.examine("pkcs11:object=twin;id=%04", b"").key_type == "EC-P256"


@pytest.mark.parametrize(
    ("uri", "status"),
    [
        ("pkcs11:object=nobody", Status.KEY_MATERIAL_MISSING),
        ("pkcs11:", Status.INVALID_ARGUMENT),
        ("pkcs11:type=private", Status.INVALID_ARGUMENT),
        ("pkcs11:object=old;type=cert", Status.INVALID_ARGUMENT),
        ("pkcs11:object=old;type=public", Status.INVALID_ARGUMENT),
        ("pkcs11:object=old;type=secret-key", Status.KEY_MATERIAL_MISSING),
        ("pkcs11:token=other;object=old", Status.WRONG_TOKEN),
        ("pkcs11:serial=00;object=old", Status.WRONG_TOKEN),
        ("0x81000010", Status.INVALID_ARGUMENT),
        ("", Status.INVALID_ARGUMENT),
    ],
)
def test_a_uri_that_names_no_key_here_is_refused(
    provider: Pkcs11Provider, theirs: Session, uri: str, status: Status
) -> None:
    make_pair(theirs)
    assert refused(provider, uri) is status


def test_a_file_is_no_key_on_a_token(provider: Pkcs11Provider) -> None:
    with pytest.raises(RequestError) as refusal:
        provider.examine("", b"-----BEGIN TSS2 PRIVATE KEY-----")
    assert refusal.value.status is Status.INVALID_ARGUMENT


def test_a_key_of_our_own_is_not_adopted(provider: Pkcs11Provider) -> None:
    made = generate(provider, "EC-P256")
    uri = "pkcs11:id=" + "".join(f"%{byte:02X}" for byte in made.id)
    with pytest.raises(RequestError, match="made this key itself"):
        provider.examine(uri, b"")
    made.destroy(provider)


def test_more_than_the_token_allows_and_another_type_are_refused(provider: Pkcs11Provider, theirs: Session) -> None:
    make_pair(theirs)
    with pytest.raises(RequestError) as refusal:
        adopt(provider, "pkcs11:object=old", "EC-P256", P.SIGN | P.DERIVE)
    assert refusal.value.status is Status.INVALID_PERMISSIONS
    with pytest.raises(RequestError) as mismatch:
        adopt(provider, "pkcs11:object=old", "EC-P384", P.SIGN)
    assert mismatch.value.status is Status.KEY_TYPE_MISMATCH


def test_the_list_for_the_sweep_has_no_adopted_key(provider: Pkcs11Provider, theirs: Session) -> None:
    make_pair(theirs, "sixteen", bytes(range(16)))
    target, made = adopt(provider, "pkcs11:object=sixteen", "EC-P256", P.SIGN)
    load(provider, target, made)
    assert provider.list_keys() == []


def test_destroying_an_adopted_key_removes_it_and_nothing_else(provider: Pkcs11Provider, theirs: Session) -> None:
    make_pair(theirs, "old", b"\x01")
    make_pair(theirs, "other", b"\x05")
    row = KEY_TYPES["EC-P256"]
    target, made = adopt(provider, "pkcs11:object=old", "EC-P256", P.SIGN)
    provider.destroy(target.key_id, row, b"")
    assert provider.examine("pkcs11:object=old", b"").key_type == "EC-P256", "an adoption that was cut short"
    provider.destroy(target.key_id, row, made.reference)
    provider.destroy(target.key_id, row, made.reference)
    assert refused(provider, "pkcs11:object=old") is Status.KEY_MATERIAL_MISSING
    assert provider.examine("pkcs11:object=other", b"").key_type == "EC-P256"
    with pytest.raises(ProviderError) as failure:
        load(provider, target, made)
    assert failure.value.status is Status.KEY_MATERIAL_MISSING


def test_another_key_in_the_place_of_an_adopted_one_is_not_used(provider: Pkcs11Provider, theirs: Session) -> None:
    make_pair(theirs)
    target, made = adopt(provider, "pkcs11:object=old", "EC-P256", P.SIGN | P.VERIFY)
    for item in list(theirs.get_objects({Attribute.LABEL: "old"})):
        item.destroy()
    make_pair(theirs)
    handle = load(provider, target, made)
    with pytest.raises(HsmBridgeError):
        provider.verify(handle, ECDSA, MESSAGE, bytes(70), DEFAULT_SIGNATURE)


def test_an_adopted_key_is_looked_at_again_by_its_reference(provider: Pkcs11Provider, theirs: Session) -> None:
    make_pair(theirs)
    target, made = adopt(provider, "pkcs11:object=old", "EC-P256", P.SIGN)
    assert P(provider.examine(OWN_REFERENCE, made.reference).permissions) == P.SIGN | P.VERIFY
    provider.destroy(target.key_id, KEY_TYPES["EC-P256"], made.reference)
    with pytest.raises(ProviderError) as failure:
        provider.examine(OWN_REFERENCE, made.reference)
    assert failure.value.status is Status.KEY_MATERIAL_MISSING


def test_a_key_that_wants_its_pin_each_time_is_refused(provider: Pkcs11Provider, theirs: Session) -> None:
    make_pair(theirs, ALWAYS_AUTHENTICATE=True)
    assert refused(provider, "pkcs11:object=old") is Status.NOT_SUPPORTED
