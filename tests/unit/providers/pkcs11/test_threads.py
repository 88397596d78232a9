"""Eight threads at one token at once: nothing fails, and every result is right.

With C_Initialize(NULL), which python-pkcs11 calls by itself, this kills the process and damages the token.
"""

import hmac
import itertools
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import DecryptionFailed, SignatureInvalid
from hsmbridge.core.key_types import KEY_TYPES
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.pkcs11 import Pkcs11Provider
from tests.unit.providers.pkcs11.tokens import Made, Tokens, generate, open_token, target_for

THREADS = 8
SECONDS = 10.0

ECDSA = algorithm("ECDSA-P256-SHA256")
HMAC = algorithm("HMAC-SHA256")
GCM = algorithm("AES-256-GCM")
RSA = algorithm("RSA-PKCS1-SHA256")
ECDH = algorithm("ECDH-P256")
SHA = algorithm("SHA-256")

Work = Callable[[bytes], None]


def everything(provider: Pkcs11Provider) -> tuple[list[Work], list[Made]]:
    """Each kind of work, with the keys that they share."""
    signing, agreeing = generate(provider, "EC-P256", P.SIGN | P.VERIFY), generate(provider, "EC-P256", P.DERIVE)
    rsa_key, aes_key = generate(provider, "RSA-2048", P.SIGN | P.VERIFY), generate(provider, "AES-256")
    secret, target = secrets.token_bytes(32), target_for("HMAC-SHA256")
    mac_key = Made(target, KEY_TYPES["HMAC-SHA256"], provider.import_key(target, "raw", secret))
    public, other = (load_der_public_key(key.key.public_key) for key in (signing, agreeing))
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(other, ec.EllipticCurvePublicKey)

    def sign(data: bytes) -> None:
        signature = provider.sign(signing.load(provider), ECDSA, data, DEFAULT_SIGNATURE)
        public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        provider.verify(signing.load(provider), ECDSA, data, signature, DEFAULT_SIGNATURE)
        with pytest.raises(SignatureInvalid):
            provider.verify(signing.load(provider), ECDSA, data + b"x", signature, DEFAULT_SIGNATURE)

    def sign_rsa(data: bytes) -> None:
        signature = provider.sign(rsa_key.load(provider), RSA, data, DEFAULT_SIGNATURE)
        provider.verify(rsa_key.load(provider), RSA, data, signature, DEFAULT_SIGNATURE)

    def mac(data: bytes) -> None:
        code = provider.sign(mac_key.load(provider), HMAC, data, DEFAULT_SIGNATURE)
        assert code == hmac.digest(secret, data, "sha256")

    def encrypt(data: bytes) -> None:
        nonce = secrets.token_bytes(12)
        sealed = provider.encrypt(aes_key.load(provider), GCM, nonce, data, b"aad")
        assert provider.decrypt(aes_key.load(provider), GCM, nonce, sealed.ciphertext, b"aad", sealed.tag) == data
        with pytest.raises(DecryptionFailed):
            provider.decrypt(aes_key.load(provider), GCM, nonce, sealed.ciphertext, b"", sealed.tag)

    def agree(data: bytes) -> None:
        peer = ec.generate_private_key(ec.SECP256R1())
        spki = peer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert provider.agree_secret(agreeing.load(provider), ECDH, spki) == peer.exchange(ec.ECDH(), other)

    def digest(data: bytes) -> None:
        assert provider.digest(SHA, data) == hashes_of(data)

    def make_and_destroy(data: bytes) -> None:
        for ephemeral in (False, True):
            key = generate(provider, "EC-P256", ephemeral=ephemeral)
            signature = provider.sign(key.load(provider), ECDSA, data, DEFAULT_SIGNATURE)
            provider.verify(key.load(provider), ECDSA, data, signature, DEFAULT_SIGNATURE)
            key.destroy(provider)

    return [sign, sign, sign_rsa, mac, encrypt, agree, digest, make_and_destroy], [
        signing,
        agreeing,
        rsa_key,
        aes_key,
        mac_key,
    ]


def hashes_of(data: bytes) -> bytes:
    hashed = hashes.Hash(hashes.SHA256())
    hashed.update(data)
    return hashed.finalize()


def test_eight_threads_mix_everything(tokens: Tokens) -> None:
    provider = open_token()
    works, keys = everything(provider)
    until = time.monotonic() + SECONDS

    def worker(first: int) -> int:
        rounds = 0
        for work in itertools.islice(itertools.cycle(works), first, None):
            if time.monotonic() > until:
                return rounds
            work(secrets.token_bytes(rounds % 300))
            rounds += 1
        return rounds

    with ThreadPoolExecutor(THREADS) as pool:
        rounds = list(pool.map(worker, range(THREADS)))
    assert min(rounds) > len(works)
    assert sorted(provider.list_keys()) == sorted(key.id for key in keys)
    for key in keys:
        key.destroy(provider)
    assert provider.list_keys() == []
    provider.close()


def test_more_threads_than_sessions_wait_their_turn(tokens: Tokens) -> None:
    provider = open_token(sessions=2)
    key = generate(provider, "EC-P256")
    handle = key.load(provider)
    public = load_der_public_key(key.key.public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)

    def worker(place: int) -> None:
        for round_ in range(50):
            data = f"{place} {round_}".encode()
            public.verify(provider.sign(handle, ECDSA, data, DEFAULT_SIGNATURE), data, ec.ECDSA(hashes.SHA256()))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(worker, range(16)))
    key.destroy(provider)
    provider.close()
