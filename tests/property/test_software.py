"""The software provider on any input: what comes from outside raises HsmBridgeError or nothing."""

from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, rsa, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from hsmbridge.core import calls
from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import DecryptionFailed, HsmBridgeError, RequestError, SignatureInvalid
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import KEY_TYPES, key_type
from hsmbridge.core.params import DEFAULT_SIGNATURE, Argon2id, Scrypt
from hsmbridge.providers.software import SoftwareProvider
from hsmbridge.providers.software.derivation import derive
from hsmbridge.providers.software.material import from_stored
from tests.conformance.backends import AesGcmSeal

PROVIDER = SoftwareProvider(AesGcmSeal(AESGCM.generate_key(256)))
UNSUPPORTED = frozenset(KEY_TYPES) - set(PROVIDER.describe().key_types)

AEADS = ("AES-128-GCM", "AES-256-CCM", "ChaCha20-Poly1305")
CIPHERS = (*AEADS, "AES-128-CBC", "AES-192-CTR", "AES-256-CFB")
WRAPS = (
    *AEADS,
    "AES-128-KW",
    "AES-256-KWP",
    "RSA-OAEP-SHA256",
    "RSA-AES-KEY-WRAP-SHA256",
    "HPKE-X25519-SHA256-ChaCha20-Poly1305",
    "HPKE-P256-SHA256-AES-128-GCM",
    "HPKE-X-Wing-SHA256-AES-256-GCM",
)
SIGNATURES = (
    ("RSA-2048", "RSA-PKCS1-SHA256"),
    ("RSA-2048", "RSA-PSS-SHA512"),
    ("EC-P256", "ECDSA-P256-SHA256"),
    ("EC-P521", "ECDSA-P521-SHA512"),
    ("Ed25519", "Ed25519"),
    ("Ed448", "Ed448"),
    ("ML-DSA-44", "ML-DSA-44"),
    ("HMAC-SHA384", "HMAC-SHA384"),
    ("AES-128", "AES-CMAC"),
)


@cache
def _handle(name: str) -> int:
    target = calls.KeyTarget(new_key_id(), name, 0, b"binding")
    made = PROVIDER.generate(target)
    return PROVIDER.load(target.key_id, key_type(name), 0, made.reference, b"binding")


@cache
def _private_keys() -> tuple[bytes, ...]:
    keys = (
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
        mldsa.MLDSA44PrivateKey.generate(),
        mlkem.MLKEM768PrivateKey.generate(),
    )
    return tuple(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) for key in keys)


@cache
def _public_keys() -> tuple[bytes, ...]:
    keys = (
        rsa.generate_private_key(65537, 2048).public_key(),
        ec.generate_private_key(ec.SECP256R1()).public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
        mlkem.MLKEM768PrivateKey.generate().public_key(),
    )
    return tuple(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in keys)


@st.composite
def _damaged(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with a few of them changed, some taken out or put in."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 3))
        data[at : at + cut] = draw(st.binary(max_size=3))
    return bytes(data)


any_private_key = st.one_of(st.binary(max_size=200), _damaged(st.sampled_from(_private_keys())))
any_public_key = st.one_of(st.binary(max_size=200), _damaged(st.sampled_from(_public_keys())))


@given(
    name=st.sampled_from(CIPHERS),
    plaintext=st.binary(max_size=300),
    aad=st.binary(max_size=40),
    nonce=st.binary(min_size=16, max_size=16),
)
def test_whatever_is_encrypted_comes_back(name: str, plaintext: bytes, aad: bytes, nonce: bytes) -> None:
    row = algorithm(name)
    handle = _handle(row.key_types[0])
    used_aad = aad if row.tag_size else b""
    sealed = PROVIDER.encrypt(handle, row, nonce[: row.nonce_size], plaintext, used_aad)
    assert PROVIDER.decrypt(handle, row, sealed.nonce, sealed.ciphertext, used_aad, sealed.tag) == plaintext


@given(name=st.sampled_from(AEADS), plaintext=st.binary(max_size=100), data=st.data())
def test_no_change_to_anything_authenticated_goes_unnoticed(name: str, plaintext: bytes, data: st.DataObject) -> None:
    row = algorithm(name)
    handle = _handle(row.key_types[0])
    aad = b"associated data"
    sealed = PROVIDER.encrypt(handle, row, bytes(row.nonce_size), plaintext, aad)
    whole = b"".join((sealed.nonce, sealed.ciphertext, sealed.tag, aad))
    position = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[position] ^= data.draw(st.integers(1, 255))
    nonce_end = row.nonce_size
    tag_start = nonce_end + len(sealed.ciphertext)
    aad_start = tag_start + row.tag_size
    with pytest.raises(DecryptionFailed):
        PROVIDER.decrypt(
            handle,
            row,
            bytes(changed[:nonce_end]),
            bytes(changed[nonce_end:tag_start]),
            bytes(changed[aad_start:]),
            bytes(changed[tag_start:aad_start]),
        )


@given(pair=st.sampled_from(SIGNATURES), message=st.binary(max_size=100))
def test_what_is_signed_verifies(pair: tuple[str, str], message: bytes) -> None:
    handle, row = _handle(pair[0]), algorithm(pair[1])
    PROVIDER.verify(handle, row, message, PROVIDER.sign(handle, row, message, DEFAULT_SIGNATURE), DEFAULT_SIGNATURE)


@given(pair=st.sampled_from(SIGNATURES), message=st.binary(max_size=100), signature=st.binary(max_size=300))
def test_no_made_up_signature_verifies(pair: tuple[str, str], message: bytes, signature: bytes) -> None:
    with pytest.raises(SignatureInvalid):
        PROVIDER.verify(_handle(pair[0]), algorithm(pair[1]), message, signature, DEFAULT_SIGNATURE)


@given(
    name=st.sampled_from((*AEADS, "RSA-OAEP-SHA256")), ciphertext=st.binary(max_size=300), tag=st.binary(max_size=20)
)
def test_no_made_up_ciphertext_is_decrypted(name: str, ciphertext: bytes, tag: bytes) -> None:
    row = algorithm(name)
    with pytest.raises(DecryptionFailed):
        PROVIDER.decrypt(_handle(row.key_types[0]), row, bytes(row.nonce_size), ciphertext, b"", tag)


@given(
    material=any_private_key, format_=st.sampled_from(("raw", "pkcs8", "spki")), name=st.sampled_from(list(KEY_TYPES))
)
def test_a_damaged_key_is_imported_or_refused_by_name(material: bytes, format_: str, name: str) -> None:
    target = calls.KeyTarget(new_key_id(), name, 0, b"binding")
    try:
        made = PROVIDER.import_key(target, format_, material)
    except HsmBridgeError:
        return
    PROVIDER.load(target.key_id, key_type(name), 0, made.reference, b"binding")


@given(peer=any_public_key, pair=st.sampled_from((("EC-P256", "ECDH-P256"), ("X25519", "X25519"), ("X448", "X448"))))
def test_a_damaged_peer_is_agreed_with_or_refused_by_name(peer: bytes, pair: tuple[str, str]) -> None:
    try:
        secret = PROVIDER.agree_secret(_handle(pair[0]), algorithm(pair[1]), peer)
    except HsmBridgeError:
        return
    assert any(secret)


@given(
    stored=st.one_of(st.binary(max_size=200), _damaged(st.sampled_from(_private_keys()).map(lambda key: b"\x02" + key)))
)
def test_damaged_stored_material_is_read_or_refused_by_name(stored: bytes) -> None:
    try:
        from_stored(stored)
    except HsmBridgeError:
        return


# Wrapped keys


def _target(name: str) -> calls.KeyTarget:
    return calls.KeyTarget(new_key_id(), name, 0, b"binding", "", ephemeral=True)


@given(name=st.sampled_from(WRAPS), wrapped=st.binary(max_size=1500), type_=st.sampled_from(list(KEY_TYPES)))
def test_no_made_up_bytes_are_unwrapped(name: str, wrapped: bytes, type_: str) -> None:
    row, into = algorithm(name), key_type(type_)
    if type_ in UNSUPPORTED:
        return
    form = "raw" if into.symmetric else "pkcs8"
    with pytest.raises(DecryptionFailed):
        PROVIDER.unwrap(_handle(row.key_types[0]), row, wrapped, form, bytes(row.nonce_size), b"", _target(type_))


@given(name=st.sampled_from(WRAPS), value=st.binary(min_size=32, max_size=32), data=st.data())
def test_no_change_to_a_wrapped_key_goes_unnoticed(name: str, value: bytes, data: st.DataObject) -> None:
    row = algorithm(name)
    handle, iv, target = _handle(row.key_types[0]), bytes(row.nonce_size), _target("AES-256")
    made = PROVIDER.import_key(target, "raw", value)
    key = PROVIDER.load(target.key_id, key_type("AES-256"), 0, made.reference, b"binding")
    wrapped = bytearray(PROVIDER.wrap(handle, row, key, iv, b""))
    back = _target("AES-256")
    PROVIDER.unwrap(handle, row, bytes(wrapped), "raw", iv, b"", back)
    wrapped[data.draw(st.integers(0, len(wrapped) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DecryptionFailed):
        PROVIDER.unwrap(handle, row, bytes(wrapped), "raw", iv, b"", _target("AES-256"))
    for used in (target, back):
        PROVIDER.destroy(used.key_id, key_type("AES-256"), b"")


@given(material=any_private_key, name=st.sampled_from([name for name in KEY_TYPES if not KEY_TYPES[name].symmetric]))
def test_a_damaged_private_key_is_unwrapped_or_fails_like_a_wrong_tag(material: bytes, name: str) -> None:
    if name in UNSUPPORTED:
        return
    row, handle = algorithm("AES-128-GCM"), _handle("AES-128")
    sealed = PROVIDER.encrypt(handle, row, bytes(12), material, b"")
    target = _target(name)
    try:
        made = PROVIDER.unwrap(handle, row, sealed.ciphertext + sealed.tag, "pkcs8", bytes(12), b"", target)
    except DecryptionFailed:
        return
    PROVIDER.load(target.key_id, key_type(name), 0, made.reference, b"binding")
    PROVIDER.destroy(target.key_id, key_type(name), made.reference)


@given(ciphertext=st.one_of(st.binary(max_size=1200), st.binary(min_size=1120, max_size=1120)))
def test_any_x_wing_ciphertext_yields_a_secret_or_fails(ciphertext: bytes) -> None:
    try:
        secret = PROVIDER.decapsulate(_handle("X-Wing"), algorithm("X-Wing"), ciphertext)
    except DecryptionFailed:
        return
    assert len(secret) == 32


@given(salt=st.binary(max_size=20), numbers=st.lists(st.integers(-2, 70), min_size=3, max_size=3))
def test_argon2id_and_scrypt_take_any_small_numbers_or_refuse_them(salt: bytes, numbers: list[int]) -> None:
    first, second, third = numbers
    for kdf in (
        Argon2id(salt=salt, iterations=first % 4, lanes=second, memory=third),
        Scrypt(salt=salt, cost=first, block_size=second, parallelization=third),
    ):
        try:
            assert len(derive(b"secret", kdf, 32)) == 32
        except RequestError:
            continue
