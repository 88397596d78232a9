"""What TPM keys compute, checked by pyca/cryptography and the standard library."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import DecryptionFailed, LimitError, RequestError, SignatureInvalid, Status
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.tpm import TpmProvider
from tests.unit.providers.tpm.keys import SIGNING, Key, KnownKey

BUFFER_SIZES = [0, 1, 15, 16, 17, 1023, 1024, 1025, 2048, 100_000]
MESSAGE = b"message " * 400
HASHES = {"SHA256": hashes.SHA256(), "SHA384": hashes.SHA384(), "SHA512": hashes.SHA512()}


def data(size: int) -> bytes:
    return (bytes(range(256)) * (size // 256 + 1))[:size]


def spki(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def rsa_key(shared_tpm: TpmProvider) -> Key:
    return Key(shared_tpm, "RSA-2048", SIGNING)


@pytest.fixture(scope="module")
def decrypting_key(shared_tpm: TpmProvider) -> Key:
    return Key(shared_tpm, "RSA-2048", P.ENCRYPT | P.DECRYPT)


@pytest.fixture(scope="module")
def p256_key(shared_tpm: TpmProvider) -> Key:
    return Key(shared_tpm, "EC-P256", SIGNING)


@pytest.mark.parametrize(("curve", "hash_"), [("P256", "SHA256"), ("P384", "SHA384"), ("P521", "SHA512")])
def test_an_ecdsa_signature_is_der_that_others_verify(shared_tpm: TpmProvider, curve: str, hash_: str) -> None:
    key = Key(shared_tpm, f"EC-{curve}", SIGNING)
    row = algorithm(f"ECDSA-{curve}-{hash_}")
    public = load_der_public_key(key.made.public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    for message in (b"", MESSAGE):
        signature = shared_tpm.sign(key.handle, row, message, DEFAULT_SIGNATURE)
        public.verify(signature, message, ec.ECDSA(HASHES[hash_]))
        shared_tpm.verify(key.handle, row, message, signature, DEFAULT_SIGNATURE)


@pytest.mark.parametrize("hash_", HASHES)
@pytest.mark.parametrize("scheme", ["PKCS1", "PSS"])
def test_an_rsa_signature_is_one_that_others_verify(
    shared_tpm: TpmProvider, rsa_key: Key, scheme: str, hash_: str
) -> None:
    row = algorithm(f"RSA-{scheme}-{hash_}")
    signature = shared_tpm.sign(rsa_key.handle, row, MESSAGE, DEFAULT_SIGNATURE)
    public = load_der_public_key(rsa_key.made.public_key)
    assert isinstance(public, rsa.RSAPublicKey)
    chosen = HASHES[hash_]
    salted = padding.PSS(padding.MGF1(chosen), chosen.digest_size)
    public.verify(signature, MESSAGE, padding.PKCS1v15() if scheme == "PKCS1" else salted, chosen)
    shared_tpm.verify(rsa_key.handle, row, MESSAGE, signature, DEFAULT_SIGNATURE)


@pytest.mark.parametrize("name", ["RSA-PKCS1-SHA256", "RSA-PSS-SHA256"])
def test_a_changed_message_signature_or_length_does_not_verify(
    shared_tpm: TpmProvider, rsa_key: Key, name: str
) -> None:
    row = algorithm(name)
    good = shared_tpm.sign(rsa_key.handle, row, MESSAGE, DEFAULT_SIGNATURE)
    changed = bytes((good[0] ^ 1,)) + good[1:]
    for message, signature in (
        (b"another", good),
        (MESSAGE, changed),
        (MESSAGE, good[1:]),
        (MESSAGE, b"\0" + good),
        (MESSAGE, b"\xff" * len(good)),
        (MESSAGE, bytes(len(good))),
        (MESSAGE, b""),
    ):
        with pytest.raises(SignatureInvalid):
            shared_tpm.verify(rsa_key.handle, row, message, signature, DEFAULT_SIGNATURE)


@given(st.one_of(st.binary(max_size=80), st.tuples(st.integers(0, 2**300), st.integers(0, 2**300))))
def test_no_made_up_ecdsa_signature_verifies(
    shared_tpm: TpmProvider, p256_key: Key, made_up: bytes | tuple[int, int]
) -> None:
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    signature = made_up if isinstance(made_up, bytes) else encode_dss_signature(*made_up)
    with pytest.raises(SignatureInvalid):
        shared_tpm.verify(p256_key.handle, algorithm("ECDSA-P256-SHA256"), MESSAGE, signature, DEFAULT_SIGNATURE)


@pytest.mark.parametrize("name", ["ECDSA-P256-SHA256", "RSA-PSS-SHA256", "RSA-PKCS1-SHA256"])
def test_a_digest_is_signed_as_the_message_would_be(
    shared_tpm: TpmProvider, rsa_key: Key, p256_key: Key, name: str
) -> None:
    key = p256_key if name.startswith("EC") else rsa_key
    row = algorithm(name)
    prehashed = SignatureParameters(digest_signing=True)
    digest = hashlib.sha256(MESSAGE).digest()
    signature = shared_tpm.sign(key.handle, row, digest, prehashed)
    shared_tpm.verify(key.handle, row, MESSAGE, signature, DEFAULT_SIGNATURE)
    shared_tpm.verify(key.handle, row, digest, signature, prehashed)
    with pytest.raises(RequestError) as refused:
        shared_tpm.sign(key.handle, row, digest[1:], prehashed)
    assert refused.value.status is Status.INVALID_ARGUMENT


def test_parameters_that_an_algorithm_does_not_have_are_refused(shared_tpm: TpmProvider, p256_key: Key) -> None:
    hmac_key = Key(shared_tpm, "HMAC-SHA256", SIGNING)
    for key, name, parameters in (
        (p256_key, "ECDSA-P256-SHA256", SignatureParameters(context=b"context")),
        (p256_key, "ECDSA-P256-SHA256", SignatureParameters(salt_length=32)),
        (hmac_key, "HMAC-SHA256", SignatureParameters(digest_signing=True)),
    ):
        with pytest.raises(RequestError) as refused:
            shared_tpm.sign(key.handle, algorithm(name), bytes(32), parameters)
        assert refused.value.status is Status.INVALID_ARGUMENT


def test_pss_signs_with_the_salt_of_the_tpm_and_refuses_to_promise_another(
    shared_tpm: TpmProvider, rsa_key: Key
) -> None:
    row = algorithm("RSA-PSS-SHA256")
    assert shared_tpm.sign(rsa_key.handle, row, MESSAGE, SignatureParameters(salt_length=32))
    with pytest.raises(RequestError) as refused:
        shared_tpm.sign(rsa_key.handle, row, MESSAGE, SignatureParameters(salt_length=20))
    assert refused.value.status is Status.NOT_SUPPORTED


def test_pss_verifies_just_the_salt_length_asked_for(shared_tpm: TpmProvider) -> None:
    private = rsa.generate_private_key(65537, 2048)
    key = KnownKey(shared_tpm, "RSA-2048", SIGNING, private)
    row = algorithm("RSA-PSS-SHA256")
    for salt_length in (0, 20, 32, 222):
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length)
        signature = private.sign(MESSAGE, pss, hashes.SHA256())
        shared_tpm.verify(key.handle, row, MESSAGE, signature, SignatureParameters(salt_length=salt_length))
        with pytest.raises(SignatureInvalid):
            shared_tpm.verify(key.handle, row, MESSAGE, signature, SignatureParameters(salt_length=salt_length + 1))


@pytest.mark.parametrize("name", ["SHA256", "SHA384", "SHA512"])
def test_a_mac_is_the_one_of_the_standard_library_at_every_length(shared_tpm: TpmProvider, name: str) -> None:
    secret = data(HASHES[name].digest_size)
    key = KnownKey(shared_tpm, f"HMAC-{name}", SIGNING, secret)
    row = algorithm(f"HMAC-{name}")
    for size in BUFFER_SIZES:
        mac = shared_tpm.sign(key.handle, row, data(size), DEFAULT_SIGNATURE)
        assert mac == hmac.digest(secret, data(size), name.lower())
        shared_tpm.verify(key.handle, row, data(size), mac, DEFAULT_SIGNATURE)
        for wrong in (mac[:-1], mac + b"\0", bytes((mac[0] ^ 1,)) + mac[1:], b""):
            with pytest.raises(SignatureInvalid):
                shared_tpm.verify(key.handle, row, data(size), wrong, DEFAULT_SIGNATURE)


@pytest.mark.parametrize("bits", [128, 256])
def test_cfb_is_that_of_openssl_at_every_length(shared_tpm: TpmProvider, bits: int) -> None:
    secret, iv = data(bits // 8), data(16)
    key = KnownKey(shared_tpm, f"AES-{bits}", P.ENCRYPT | P.DECRYPT, secret)
    row = algorithm(f"AES-{bits}-CFB")
    for size in BUFFER_SIZES:
        encrypted = shared_tpm.encrypt(key.handle, row, iv, data(size), b"")
        other = Cipher(AES(secret), CFB(iv)).encryptor()
        assert encrypted.ciphertext == other.update(data(size)) + other.finalize()
        assert (encrypted.nonce, encrypted.tag) == (iv, b"")
        assert shared_tpm.decrypt(key.handle, row, iv, encrypted.ciphertext, b"", b"") == data(size)


def test_cfb_takes_a_whole_iv_and_nothing_to_authenticate(shared_tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "AES-128", P.ENCRYPT | P.DECRYPT)
    row = algorithm("AES-128-CFB")
    for nonce, aad in ((b"", b""), (bytes(12), b""), (bytes(16), b"aad")):
        with pytest.raises(RequestError) as refused:
            shared_tpm.encrypt(key.handle, row, nonce, b"plaintext", aad)
        assert refused.value.status is Status.INVALID_ARGUMENT
    with pytest.raises(DecryptionFailed):
        shared_tpm.decrypt(key.handle, row, bytes(16), b"ciphertext", b"", bytes(16))


@pytest.mark.parametrize("hash_", ["SHA1", "SHA256", "SHA384", "SHA512"])
def test_oaep_takes_what_others_encrypted(shared_tpm: TpmProvider, decrypting_key: Key, hash_: str) -> None:
    row = algorithm(f"RSA-OAEP-{hash_}")
    chosen = HASHES.get(hash_, hashes.SHA1())
    oaep = padding.OAEP(padding.MGF1(chosen), chosen, None)
    public = load_der_public_key(decrypting_key.made.public_key)
    assert isinstance(public, rsa.RSAPublicKey)
    longest = 256 - 2 * chosen.digest_size - 2
    for plaintext in (b"", b"plaintext", data(longest)):
        ciphertext = public.encrypt(plaintext, oaep)
        assert shared_tpm.decrypt(decrypting_key.handle, row, b"", ciphertext, b"", b"") == plaintext
        own = shared_tpm.encrypt(decrypting_key.handle, row, b"", plaintext, b"")
        assert shared_tpm.decrypt(decrypting_key.handle, row, b"", own.ciphertext, b"", b"") == plaintext
    with pytest.raises(LimitError) as refused:
        shared_tpm.encrypt(decrypting_key.handle, row, b"", data(longest + 1), b"")
    assert refused.value.status is Status.DATA_TOO_LARGE


def test_oaep_encrypts_what_others_decrypt(shared_tpm: TpmProvider) -> None:
    private = rsa.generate_private_key(65537, 2048)
    key = KnownKey(shared_tpm, "RSA-2048", P.ENCRYPT | P.DECRYPT, private)
    encrypted = shared_tpm.encrypt(key.handle, algorithm("RSA-OAEP-SHA256"), b"", b"plaintext", b"")
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    assert private.decrypt(encrypted.ciphertext, oaep) == b"plaintext"


def test_data_that_is_no_ciphertext_fails_in_one_way(shared_tpm: TpmProvider, decrypting_key: Key) -> None:
    row = algorithm("RSA-OAEP-SHA256")
    good = shared_tpm.encrypt(decrypting_key.handle, row, b"", b"plaintext", b"").ciphertext
    failures = set()
    for ciphertext, tag in (
        (bytes((good[0] ^ 1,)) + good[1:], b""),
        (bytes(256), b""),
        (b"\xff" * 256, b""),
        (good[1:], b""),
        (good + b"\0", b""),
        (b"", b""),
        (good, b"tag"),
    ):
        with pytest.raises(DecryptionFailed) as failed:
            shared_tpm.decrypt(decrypting_key.handle, row, b"", ciphertext, b"", tag)
        failures.add(str(failed.value))
    assert len(failures) == 1
    assert shared_tpm.decrypt(decrypting_key.handle, row, b"", good, b"", b"") == b"plaintext"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_an_agreed_secret_is_the_one_of_the_peer(shared_tpm: TpmProvider, curve: ec.EllipticCurve) -> None:
    name = f"P{curve.key_size}"
    key = Key(shared_tpm, f"EC-{name}", P.DERIVE)
    peer = ec.generate_private_key(curve)
    public = load_der_public_key(key.made.public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    secret = shared_tpm.agree_secret(key.handle, algorithm(f"ECDH-{name}"), spki(peer))
    assert secret == peer.exchange(ec.ECDH(), public)
    assert len(secret) == (curve.key_size + 7) // 8


def test_a_secret_that_begins_with_zeros_keeps_them(shared_tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "EC-P256", P.DERIVE)
    public = load_der_public_key(key.made.public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    peers = (ec.generate_private_key(ec.SECP256R1()) for _ in range(20_000))
    peer = next(peer for peer in peers if peer.exchange(ec.ECDH(), public)[0] == 0)
    assert shared_tpm.agree_secret(key.handle, algorithm("ECDH-P256"), spki(peer))[0] == 0


def test_a_bad_peer_is_refused(shared_tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "EC-P256", P.DERIVE)
    good = spki(ec.generate_private_key(ec.SECP256R1()))
    for peer in (
        b"",
        b"not DER",
        good[:-1],
        good[:-1] + bytes((good[-1] ^ 1,)),  # a point off the curve
        spki(ec.generate_private_key(ec.SECP384R1())),
        spki(rsa.generate_private_key(65537, 2048)),
    ):
        with pytest.raises(RequestError) as refused:
            shared_tpm.agree_secret(key.handle, algorithm("ECDH-P256"), peer)
        assert refused.value.status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["SHA-1", "SHA-256", "SHA-384", "SHA-512"])
def test_a_digest_is_that_of_the_standard_library_at_every_length(shared_tpm: TpmProvider, name: str) -> None:
    for size in BUFFER_SIZES:
        expected = hashlib.new(name.replace("-", ""), data(size)).digest()
        assert shared_tpm.digest(algorithm(name), data(size)) == expected


def test_random_bytes_come_in_the_number_asked_for(shared_tpm: TpmProvider) -> None:
    for length in (0, 1, 32, 64, 65, 1000):
        assert len(shared_tpm.random(length)) == length
    assert shared_tpm.random(32) != shared_tpm.random(32)
    with pytest.raises(RequestError):
        shared_tpm.random(-1)


def test_an_algorithm_that_a_tpm_lacks_is_not_supported(shared_tpm: TpmProvider, p256_key: Key) -> None:
    aes = Key(shared_tpm, "AES-128", P.ENCRYPT)
    for call in (
        lambda: shared_tpm.sign(p256_key.handle, algorithm("Ed25519"), MESSAGE, DEFAULT_SIGNATURE),
        lambda: shared_tpm.encrypt(aes.handle, algorithm("AES-128-GCM"), bytes(12), b"", b""),
        lambda: shared_tpm.digest(algorithm("BLAKE2b-512"), b""),
    ):
        with pytest.raises(RequestError) as refused:
            call()
        assert refused.value.status is Status.NOT_SUPPORTED


def test_an_algorithm_that_does_not_take_the_key_is_refused(shared_tpm: TpmProvider, p256_key: Key) -> None:
    with pytest.raises(RequestError) as refused:
        shared_tpm.sign(p256_key.handle, algorithm("ECDSA-P384-SHA384"), MESSAGE, DEFAULT_SIGNATURE)
    assert refused.value.status is Status.KEY_TYPE_MISMATCH
