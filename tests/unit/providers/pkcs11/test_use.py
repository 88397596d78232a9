"""Signatures, encryption and agreement on the token, where the conformance suite has nothing to say."""

import hashlib
import hmac
import secrets

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import Attribute

from hsmbridge.core.algorithms import Algorithm, algorithm
from hsmbridge.core.errors import (
    DecryptionFailed,
    HsmBridgeError,
    KeyUseError,
    LimitError,
    RequestError,
    SignatureInvalid,
    Status,
)
from hsmbridge.core.key_types import KEY_TYPES
from hsmbridge.core.params import DEFAULT_SIGNATURE, Hkdf, SignatureParameters
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.pkcs11 import Pkcs11Provider
from tests.unit.providers.pkcs11.tokens import Made, attributes, generate, reader, target_for

DIGEST = SignatureParameters(digest_signing=True)
P256 = algorithm("ECDSA-P256-SHA256")
PKCS1 = algorithm("RSA-PKCS1-SHA256")
PSS = algorithm("RSA-PSS-SHA256")
GCM = algorithm("AES-256-GCM")
HMAC = algorithm("HMAC-SHA256")


@pytest.fixture
def rsa_key(provider: Pkcs11Provider) -> Made:
    return generate(provider, "RSA-2048", P.SIGN | P.VERIFY)


def public_of(key: Made) -> rsa.RSAPublicKey:
    public = load_der_public_key(key.key.public_key)
    assert isinstance(public, rsa.RSAPublicKey)
    return public


def spki(private: ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# --- digests that the caller computed ------------------------------------------------------------------------------


def test_a_digest_is_signed_as_the_message_would_be(provider: Pkcs11Provider, rsa_key: Made) -> None:
    handle, digest = rsa_key.load(provider), hashlib.sha256(b"message").digest()
    signature = provider.sign(handle, PKCS1, digest, DIGEST)
    assert signature == provider.sign(handle, PKCS1, b"message", DEFAULT_SIGNATURE)
    provider.verify(handle, PKCS1, digest, signature, DIGEST)
    signature = provider.sign(handle, PSS, digest, DIGEST)
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    public_of(rsa_key).verify(signature, digest, scheme, Prehashed(hashes.SHA256()))
    provider.verify(handle, PSS, b"message", signature, DEFAULT_SIGNATURE)
    rsa_key.destroy(provider)


@pytest.mark.parametrize("name", ["P256", "P384", "P521"])
def test_a_digest_is_signed_with_ecdsa(provider: Pkcs11Provider, name: str) -> None:
    hash_ = {"P256": "SHA256", "P384": "SHA384", "P521": "SHA512"}[name]
    row, key = algorithm(f"ECDSA-{name}-{hash_}"), generate(provider, f"EC-{name}")
    handle, digest = key.load(provider), hashlib.new(hash_, b"message").digest()
    provider.verify(handle, row, b"message", provider.sign(handle, row, digest, DIGEST), DEFAULT_SIGNATURE)
    key.destroy(provider)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_digest_of_another_size_is_refused(provider: Pkcs11Provider, size: int) -> None:
    key = generate(provider, "EC-P256")
    with pytest.raises(RequestError, match="32 bytes") as refusal:
        provider.sign(key.load(provider), P256, bytes(size), DIGEST)
    assert refusal.value.status is Status.INVALID_ARGUMENT
    key.destroy(provider)


@pytest.mark.parametrize(
    ("name", "row", "parameters"),
    [
        ("EC-P256", P256, SignatureParameters(context=b"x")),
        ("EC-P256", P256, SignatureParameters(salt_length=8)),
        ("Ed25519", algorithm("Ed25519"), DIGEST),
        ("HMAC-SHA256", HMAC, DIGEST),
    ],
)
def test_parameters_that_an_algorithm_has_not_are_refused(
    provider: Pkcs11Provider, name: str, row: Algorithm, parameters: SignatureParameters
) -> None:
    key = generate(provider, name)
    with pytest.raises(RequestError) as refusal:
        provider.sign(key.load(provider), row, b"", parameters)
    assert refusal.value.status is Status.INVALID_ARGUMENT
    key.destroy(provider)


# --- PSS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("salt", [0, 20, 32, 222])
def test_a_pss_salt_has_the_length_that_was_asked_for(provider: Pkcs11Provider, rsa_key: Made, salt: int) -> None:
    parameters = SignatureParameters(salt_length=salt)
    signature = provider.sign(rsa_key.load(provider), PSS, b"message", parameters)
    public_of(rsa_key).verify(signature, b"message", padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())
    provider.verify(rsa_key.load(provider), PSS, b"message", signature, parameters)
    rsa_key.destroy(provider)


def test_a_pss_salt_that_does_not_fit_is_refused(provider: Pkcs11Provider, rsa_key: Made) -> None:
    with pytest.raises(RequestError, match="at most 222 bytes") as refusal:
        provider.sign(rsa_key.load(provider), PSS, b"", SignatureParameters(salt_length=223))
    assert refusal.value.status is Status.INVALID_ARGUMENT
    rsa_key.destroy(provider)


# --- what does not verify ------------------------------------------------------------------------------------------


def test_nothing_but_the_signature_verifies(provider: Pkcs11Provider, rsa_key: Made) -> None:
    key = generate(provider, "EC-P256")
    handle = key.load(provider)
    good = provider.sign(handle, P256, b"message", DEFAULT_SIGNATURE)
    zero = bytes.fromhex("3006020100020100")
    negative = bytes.fromhex("30060201ff0201ff")
    huge = b"\x30\x46" + 2 * (b"\x02\x21\x00" + b"\xff" * 32)
    for bad in (b"", good[:-1], good + b"\0", bytes(64), zero, negative, huge, b"\x30\x80", secrets.token_bytes(70)):
        with pytest.raises(SignatureInvalid):
            provider.verify(handle, P256, b"message", bad, DEFAULT_SIGNATURE)
    provider.verify(handle, P256, b"message", good, DEFAULT_SIGNATURE)
    handle = rsa_key.load(provider)
    for bad in (b"", bytes(256), b"\xff" * 256, bytes(255), b"\xff" * 257):
        with pytest.raises(SignatureInvalid):
            provider.verify(handle, PKCS1, b"message", bad, DEFAULT_SIGNATURE)
    key.destroy(provider)
    rsa_key.destroy(provider)


def test_nothing_but_the_ciphertext_decrypts(provider: Pkcs11Provider) -> None:
    key = generate(provider, "AES-256")
    handle, nonce = key.load(provider), secrets.token_bytes(12)
    good = provider.encrypt(handle, GCM, nonce, b"plaintext", b"aad")
    attempts = [
        (nonce, good.ciphertext, b"other", good.tag),
        (nonce, good.ciphertext[:-1], b"aad", good.tag),
        (nonce, good.ciphertext, b"aad", good.tag[:-1]),
        (nonce, good.ciphertext, b"aad", b""),
        (nonce, b"", b"aad", good.tag),
        (nonce[:-1], good.ciphertext, b"aad", good.tag),
        (b"", good.ciphertext, b"aad", good.tag),
        (secrets.token_bytes(12), good.ciphertext, b"aad", good.tag),
    ]
    for nonce_, ciphertext, aad, tag in attempts:
        with pytest.raises(DecryptionFailed):
            provider.decrypt(handle, GCM, nonce_, ciphertext, aad, tag)
    assert provider.decrypt(handle, GCM, nonce, good.ciphertext, b"aad", good.tag) == b"plaintext"
    key.destroy(provider)


@pytest.mark.parametrize("nonce", [b"", bytes(11), bytes(13)])
def test_a_nonce_of_another_size_encrypts_nothing(provider: Pkcs11Provider, nonce: bytes) -> None:
    key = generate(provider, "AES-256")
    with pytest.raises(RequestError, match="12 bytes") as refusal:
        provider.encrypt(key.load(provider), GCM, nonce, b"", b"")
    assert refusal.value.status is Status.INVALID_ARGUMENT
    key.destroy(provider)


def test_oaep_takes_what_fits_and_says_how_much(provider: Pkcs11Provider) -> None:
    row, key = algorithm("RSA-OAEP-SHA1"), generate(provider, "RSA-2048", P.ENCRYPT | P.DECRYPT)
    handle = key.load(provider)
    sealed = provider.encrypt(handle, row, b"", bytes(214), b"")
    assert provider.decrypt(handle, row, b"", sealed.ciphertext, b"", b"") == bytes(214)
    with pytest.raises(LimitError, match="at most 214 bytes"):
        provider.encrypt(handle, row, b"", bytes(215), b"")
    for bad in (b"", sealed.ciphertext[:-1], bytes(256), b"\xff" * 256, sealed.ciphertext + b"\0"):
        with pytest.raises(DecryptionFailed):
            provider.decrypt(handle, row, b"", bad, b"", b"")
    key.destroy(provider)


# --- what the key may not do ---------------------------------------------------------------------------------------


def test_a_use_without_permission_is_refused_by_the_token_itself(provider: Pkcs11Provider) -> None:
    key, nothing = generate(provider, "EC-P256", P.NONE), generate(provider, "AES-256", P.NONE)
    handle, secret = key.load(provider), nothing.load(provider)
    peer = spki(ec.generate_private_key(ec.SECP256R1()))
    attempts = (
        lambda: provider.sign(handle, P256, b"", DEFAULT_SIGNATURE),
        lambda: provider.verify(handle, P256, b"", bytes.fromhex("3006020101020101"), DEFAULT_SIGNATURE),
        lambda: provider.agree_secret(handle, algorithm("ECDH-P256"), peer),
        lambda: provider.encrypt(secret, GCM, bytes(12), b"", b""),
        lambda: provider.decrypt(secret, GCM, bytes(12), b"", b"", bytes(16)),
    )
    for attempt in attempts:
        with pytest.raises(KeyUseError) as refusal:
            attempt()
        assert refusal.value.status is Status.KEY_OPERATION_NOT_PERMITTED
    key.destroy(provider)
    nothing.destroy(provider)


def test_an_algorithm_that_the_key_type_does_not_take_is_refused(provider: Pkcs11Provider) -> None:
    key = generate(provider, "EC-P256")
    with pytest.raises(RequestError) as refusal:
        provider.sign(key.load(provider), algorithm("ECDSA-P384-SHA384"), b"", DEFAULT_SIGNATURE)
    assert refusal.value.status is Status.KEY_TYPE_MISMATCH
    key.destroy(provider)


def test_a_secret_too_short_for_the_token_is_refused_as_such(provider: Pkcs11Provider) -> None:
    key = generate(provider, "SECRET-256", P.SIGN)
    with pytest.raises(RequestError, match="key of this size") as refusal:
        provider.sign(key.load(provider), algorithm("HMAC-SHA512"), b"", DEFAULT_SIGNATURE)
    assert refusal.value.status is Status.NOT_SUPPORTED
    key.destroy(provider)


# --- agreement -----------------------------------------------------------------------------------------------------

CURVES = {"P256": ec.SECP256R1(), "P384": ec.SECP384R1(), "P521": ec.SECP521R1()}


@pytest.mark.parametrize(
    ("curve", "name", "mac"),
    [("P256", "HMAC-SHA256", "SHA256"), ("P384", "HMAC-SHA384", "SHA384"), ("P521", "SECRET-528", "SHA512")],
)
@pytest.mark.parametrize("ephemeral", [False, True])
def test_an_agreed_key_is_the_whole_secret_and_stays_on_the_token(
    provider: Pkcs11Provider, curve: str, name: str, mac: str, ephemeral: bool
) -> None:
    ours, peer = generate(provider, f"EC-{curve}", P.DERIVE), ec.generate_private_key(CURVES[curve])
    target = target_for(name, P.SIGN | P.VERIFY, ephemeral=ephemeral)
    made = provider.agree_key(ours.load(provider), algorithm(f"ECDH-{curve}"), spki(peer), None, target)
    agreed = Made(target, KEY_TYPES[name], made)
    public = load_der_public_key(ours.key.public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    secret = peer.exchange(ec.ECDH(), public)
    code = provider.sign(agreed.load(provider), algorithm(f"HMAC-{mac}"), b"message", DEFAULT_SIGNATURE)
    assert code == hmac.digest(secret, b"message", mac)
    assert (agreed.id in provider.list_keys()) is not ephemeral
    with reader() as session:
        seen = attributes(session, agreed.id)["SecretKey"]
    assert (seen[Attribute.SENSITIVE], seen[Attribute.EXTRACTABLE], seen[Attribute.MODIFIABLE]) == (True, False, False)
    assert (seen[Attribute.SIGN], seen[Attribute.DERIVE], seen[Attribute.ENCRYPT]) == (True, False, False)
    agreed.destroy(provider)
    ours.destroy(provider)


def test_an_agreed_secret_is_read_only_where_it_is_asked_for(provider: Pkcs11Provider) -> None:
    ours, peer = generate(provider, "EC-P256", P.DERIVE), ec.generate_private_key(CURVES["P256"])
    public = load_der_public_key(ours.key.public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    row = algorithm("ECDH-P256")
    assert provider.agree_secret(ours.load(provider), row, spki(peer)) == peer.exchange(ec.ECDH(), public)
    assert provider.list_keys() == [ours.id]
    ours.destroy(provider)


@pytest.mark.parametrize("name", ["AES-128", "AES-192", "SECRET-512", "EC-P256", "ChaCha20"])
def test_a_secret_is_never_cut_to_fit(provider: Pkcs11Provider, name: str) -> None:
    ours, peer = generate(provider, "EC-P256", P.DERIVE), ec.generate_private_key(CURVES["P256"])
    with pytest.raises(RequestError) as refusal:
        provider.agree_key(ours.load(provider), algorithm("ECDH-P256"), spki(peer), None, target_for(name, P.NONE))
    assert refusal.value.status in {Status.INVALID_ARGUMENT, Status.NOT_SUPPORTED}
    ours.destroy(provider)


def test_a_key_type_of_no_use_on_the_token_is_not_offered(provider: Pkcs11Provider) -> None:
    # SoftHSM makes generic secrets of 16 bytes, and takes them for nothing that it can do.
    assert "SECRET-128" not in provider.describe().key_types
    with pytest.raises(RequestError) as refusal:
        generate(provider, "SECRET-128")
    assert refusal.value.status is Status.NOT_SUPPORTED


def test_a_kdf_that_the_token_lacks_is_refused(provider: Pkcs11Provider) -> None:
    ours, peer = generate(provider, "EC-P256", P.DERIVE), ec.generate_private_key(CURVES["P256"])
    with pytest.raises(RequestError, match="derive_to_software") as refusal:
        provider.agree_key(ours.load(provider), algorithm("ECDH-P256"), spki(peer), Hkdf(), target_for("AES-256"))
    assert refusal.value.status is Status.NOT_SUPPORTED
    ours.destroy(provider)


def test_a_peer_that_is_no_point_on_the_curve_is_refused(provider: Pkcs11Provider) -> None:
    ours, row = generate(provider, "EC-P256", P.DERIVE), algorithm("ECDH-P256")
    good = spki(ec.generate_private_key(CURVES["P256"]))
    off = good[:-32] + bytes(31) + b"\x05"
    others = [spki(ec.generate_private_key(CURVES["P384"])), spki(x25519.X25519PrivateKey.generate())]
    for bad in (b"", b"\0" * 91, good[:-1], good + b"\0", off, *others, ours.key.public_key[:30]):
        with pytest.raises(HsmBridgeError) as refusal:
            provider.agree_secret(ours.load(provider), row, bad)
        assert refusal.value.status is Status.INVALID_ARGUMENT
    ours.destroy(provider)


# --- import --------------------------------------------------------------------------------------------------------


def test_an_imported_secret_computes_what_it_should(provider: Pkcs11Provider) -> None:
    secret, target = secrets.token_bytes(32), target_for("HMAC-SHA256", P.SIGN)
    key = Made(target, KEY_TYPES["HMAC-SHA256"], provider.import_key(target, "raw", secret))
    assert provider.sign(key.load(provider), HMAC, b"message", DEFAULT_SIGNATURE) == hmac.digest(
        secret, b"message", "sha256"
    )
    key.destroy(provider)


@pytest.mark.parametrize(
    ("name", "format_", "size", "status"),
    [
        ("AES-128", "raw", 15, Status.KEY_TYPE_MISMATCH),
        ("AES-128", "raw", 32, Status.KEY_TYPE_MISMATCH),
        ("AES-128", "pkcs8", 16, Status.INVALID_ARGUMENT),
        ("EC-P256", "pkcs8", 100, Status.INVALID_ARGUMENT),
    ],
)
def test_an_import_that_cannot_be_right_is_refused(
    provider: Pkcs11Provider, name: str, format_: str, size: int, status: Status
) -> None:
    target = target_for(name)
    with pytest.raises(RequestError) as refusal:
        provider.import_key(target, format_, bytes(size))
    assert refusal.value.status is status
    assert provider.list_keys() == []


# --- without a key -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 65_536, 65_537, 200_000])
def test_random_bytes_come_in_any_number(provider: Pkcs11Provider, length: int) -> None:
    first, second = provider.random(length), provider.random(length)
    assert len(first) == len(second) == length
    assert length < 8 or first != second


def test_a_digest_that_the_token_lacks_is_refused(provider: Pkcs11Provider) -> None:
    with pytest.raises(RequestError) as refusal:
        provider.digest(algorithm("SHA3-256"), b"")
    assert refusal.value.status is Status.NOT_SUPPORTED


def test_what_the_token_lists_but_cannot_do_is_not_claimed_but_noted(provider: Pkcs11Provider) -> None:
    described = provider.describe()
    claimed = {claim.algorithm for claim in described.claims}
    assert "RSA-OAEP-SHA1" in claimed
    assert "RSA-OAEP-SHA256" not in claimed
    assert any("RSA-OAEP-SHA256" in note for note in described.notes)
