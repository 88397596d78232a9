"""Keys that travel in software: published answers of key wrapping and X-Wing, and what is refused at the edges."""

import json
from functools import partial
from importlib.resources import files
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsmbridge.core import calls
from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import DecryptionFailed, HsmBridgeError, Status
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import key_type
from hsmbridge.providers.software import SoftwareProvider, xwing
from hsmbridge.providers.software.material import SecretKey
from hsmbridge.providers.software.wrapping import AesKw, AesKwp
from tests.conformance.backends import AesGcmSeal
from tests.conformance.independent import keys, spki
from tests.unit.providers.software_keys import bring, load, status_of, target_for

SMALL_ORDER = bytes(32)
"""A point of X25519 that yields the same secret with every key (RFC 7748 section 6.1)."""


@pytest.fixture
def provider() -> SoftwareProvider:
    return SoftwareProvider(AesGcmSeal(AESGCM.generate_key(256)))


# Key wrapping


@pytest.mark.parametrize(
    ("kek", "value", "wrapped"),
    [
        # RFC 3394 sections 4.1, 4.3 and 4.6
        (bytes(range(16)), "00112233445566778899aabbccddeeff", "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5"),
        (bytes(range(32)), "00112233445566778899aabbccddeeff", "64e8c3f9ce0f5ba263e9777905818a2a93c8191e7d6e8ae7"),
        (
            bytes(range(32)),
            "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f",
            "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21",
        ),
    ],
)
def test_aes_kw_gives_the_published_answers(kek: bytes, value: str, wrapped: str) -> None:
    bound = AesKw(SecretKey(kek), algorithm(f"AES-{8 * len(kek)}-KW"))
    assert bound.wrap(bytes.fromhex(value), b"", b"").hex() == wrapped
    assert bound.unwrap(bytes.fromhex(wrapped), b"", b"").hex() == value


@pytest.mark.parametrize(
    ("value", "wrapped"),
    [
        # RFC 5649 section 6
        (
            "c37b7e6492584340bed12207808941155068f738",
            "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
        ),
        ("466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"),
    ],
)
def test_aes_kwp_gives_the_published_answers(value: str, wrapped: str) -> None:
    kek = bytes.fromhex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
    bound = AesKwp(SecretKey(kek), algorithm("AES-192-KWP"))
    assert bound.wrap(bytes.fromhex(value), b"", b"").hex() == wrapped
    assert bound.unwrap(bytes.fromhex(wrapped), b"", b"").hex() == value


def test_each_wrapping_under_a_public_key_is_fresh(provider: SoftwareProvider) -> None:
    under = bring(provider, "RSA-2048", "spki", keys.public_key(key_type("RSA-2048")))
    key = bring(provider, "AES-256", "raw", bytes(32))
    for name in ("RSA-AES-KEY-WRAP-SHA256", "RSA-OAEP-SHA256"):
        first, second = (provider.wrap(under, algorithm(name), key, b"", b"") for _ in range(2))
        assert first[:256] != second[:256]
        assert first[256:] != second[256:] or name.startswith("RSA-OAEP")


def test_a_public_key_wraps_and_its_private_key_unwraps(provider: SoftwareProvider) -> None:
    for type_, name in (("RSA-2048", "RSA-AES-KEY-WRAP-SHA1"), ("EC-P256", "HPKE-P256-SHA256-AES-128-GCM")):
        row = key_type(type_)
        public = bring(provider, type_, "spki", keys.public_key(row))
        private = bring(provider, type_, "pkcs8", keys.private_key(row))
        wrapped = provider.wrap(public, algorithm(name), private, b"", b"")
        act = partial(provider.unwrap, public, algorithm(name), wrapped, "pkcs8", b"", b"", target_for(type_))
        assert status_of(act) is Status.KEY_OPERATION_NOT_PERMITTED
        target = target_for(type_)
        made = provider.unwrap(private, algorithm(name), wrapped, "pkcs8", b"", b"", target)
        assert made.public_key == keys.public_key(row)
        load(provider, target, made)


def test_a_public_key_alone_is_not_wrapped(provider: SoftwareProvider) -> None:
    under = bring(provider, "AES-256", "raw", bytes(32))
    public = bring(provider, "EC-P256", "spki", keys.public_key(key_type("EC-P256")))
    act = partial(provider.wrap, under, algorithm("AES-256-KWP"), public, b"", b"")
    assert status_of(act) is Status.KEY_OPERATION_NOT_PERMITTED


def test_a_private_key_that_rsaes_oaep_has_no_room_for_is_refused(provider: SoftwareProvider) -> None:
    row = key_type("RSA-2048")
    under = bring(provider, "RSA-2048", "pkcs8", keys.private_key(row))
    act = partial(provider.wrap, under, algorithm("RSA-OAEP-SHA256"), under, b"", b"")
    assert status_of(act) is Status.DATA_TOO_LARGE


@pytest.mark.parametrize("value", [b"", b"\x30", b"\x30\x00", bytes(64), b"\x30\x82\xff\xff"])
def test_what_was_wrapped_and_is_no_private_key_fails_like_a_changed_byte(
    provider: SoftwareProvider, value: bytes
) -> None:
    kek = bytes(range(32))
    under = bring(provider, "AES-256", "raw", kek)
    sealed = AESGCM(kek).encrypt(bytes(12), value, None)
    act = partial(
        provider.unwrap, under, algorithm("AES-256-GCM"), sealed, "pkcs8", bytes(12), b"", target_for("EC-P256")
    )
    assert status_of(act) is Status.DECRYPTION_FAILED


def test_a_private_key_is_not_taken_for_a_public_one(provider: SoftwareProvider) -> None:
    kek = bytes(range(32))
    under = bring(provider, "AES-256", "raw", kek)
    sealed = AESGCM(kek).encrypt(bytes(12), keys.public_key(key_type("EC-P256")), None)
    row = algorithm("AES-256-GCM")
    for form, status in (("spki", Status.INVALID_ARGUMENT), ("pkcs8", Status.DECRYPTION_FAILED)):
        act = partial(provider.unwrap, under, row, sealed, form, bytes(12), b"", target_for("EC-P256"))
        assert status_of(act) is status


# X-Wing


def _published() -> list[dict[str, Any]]:
    """Vectors of draft-ietf-hpke-pq over X-Wing, whose KEM they spell out."""
    path = files("cryptography_vectors") / "HPKE" / "hpke-pq-test-vectors.json"
    return [one for one in json.loads(path.read_text()) if one["kem_id"] == 0x647A]


@pytest.mark.parametrize("vector", _published())
def test_x_wing_gives_the_published_answers(provider: SoftwareProvider, vector: dict[str, Any]) -> None:
    key = xwing.XWingPrivateKey(bytes.fromhex(vector["skRm"]))
    public = key.public_key().spki()
    assert spki.key_bits(public).hex() == vector["pkRm"]
    assert spki.identifiers(public) == (key_type("X-Wing").spki_oid, "")
    handle = bring(provider, "X-Wing", "pkcs8", key.pkcs8())
    secret = provider.decapsulate(handle, algorithm("X-Wing"), bytes.fromhex(vector["enc"]))
    assert secret.hex() == vector["shared_secret"]


def test_an_x_wing_key_is_stored_as_its_seed(provider: SoftwareProvider) -> None:
    assert len(provider.generate(target_for("X-Wing")).reference) < 100


def test_a_point_that_everybody_knows_the_secret_of_is_refused(provider: SoftwareProvider) -> None:
    good = xwing.XWingPrivateKey(bytes(range(32))).public_key().spki()
    handle = bring(provider, "X-Wing", "spki", good[:-32] + SMALL_ORDER)
    assert status_of(partial(provider.encapsulate, handle, algorithm("X-Wing"))) is Status.INVALID_ARGUMENT
    x25519 = bring(provider, "X25519", "spki", spki.encode(key_type("X25519"), SMALL_ORDER))
    for key, name in ((handle, "HPKE-X-Wing-SHA256-AES-256-GCM"), (x25519, "HPKE-X25519-SHA256-AES-128-GCM")):
        act = partial(provider.encrypt, key, algorithm(name), b"", b"plaintext", b"")
        assert status_of(act) is Status.INVALID_ARGUMENT


def test_a_ciphertext_with_such_a_point_is_not_decapsulated(provider: SoftwareProvider) -> None:
    key = xwing.XWingPrivateKey(bytes(range(32)))
    handle = bring(provider, "X-Wing", "pkcs8", key.pkcs8())
    good = provider.encapsulate(handle, algorithm("X-Wing")).ciphertext
    with pytest.raises(DecryptionFailed):
        provider.decapsulate(handle, algorithm("X-Wing"), good[:-32] + SMALL_ORDER)


def test_what_is_no_x_wing_key_is_not_imported(provider: SoftwareProvider) -> None:
    key = xwing.XWingPrivateKey(bytes(range(32)))
    private, public = key.pkcs8(), key.public_key().spki()
    outside_the_field = public[:24] + b"\xff" * 1184 + public[-32:]
    for form, material in (
        ("pkcs8", private[:-1]),
        ("pkcs8", private + b"\0"),
        ("pkcs8", public),
        ("spki", public[:-1]),
        ("spki", public + b"\0"),
        ("spki", private),
        ("spki", outside_the_field),
    ):
        target = calls.KeyTarget(new_key_id(), "X-Wing", 0, b"binding")
        with pytest.raises(HsmBridgeError) as refusal:
            provider.import_key(target, form, material)
        assert refusal.value.status is Status.INVALID_ARGUMENT
    ml_kem = target_for("ML-KEM-768")
    assert status_of(partial(provider.import_key, ml_kem, "pkcs8", private)) is Status.KEY_TYPE_MISMATCH
