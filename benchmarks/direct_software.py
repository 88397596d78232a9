"""What a program does that uses pyca/cryptography by itself: key objects that are there, one call an operation."""

import os
from collections.abc import Callable, Mapping
from functools import cache

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import cmac, hashes, hmac, hpke, padding
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf import argon2, scrypt
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

from benchmarks.workload import DERIVED, NoDirectCall, Operation, kdf_of, payload
from hsmbridge.core.algorithms import Algorithm, KeyOperation, Scheme
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.params import X963, Argon2id, Hkdf, KbkdfCounter, Pbkdf2, Scrypt, Tls13ExpandLabel
from hsmbridge.providers.software.digests import HASHES

_CURVES: Mapping[str, ec.EllipticCurve] = {
    "EC-P256": ec.SECP256R1(),
    "EC-P384": ec.SECP384R1(),
    "EC-P521": ec.SECP521R1(),
}
_SIGNERS: Mapping[str, Callable[[], "_Signer"]] = {
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
    "ML-DSA-44": mldsa.MLDSA44PrivateKey.generate,
    "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey.generate,
}
_ML_KEM: Mapping[str, Callable[[], mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey]] = {
    "ML-KEM-768": mlkem.MLKEM768PrivateKey.generate,
    "ML-KEM-1024": mlkem.MLKEM1024PrivateKey.generate,
}
_MODES: Mapping[Scheme, Callable[[bytes], modes.CBC | modes.CTR | CFB]] = {
    Scheme.CBC: modes.CBC,
    Scheme.CTR: modes.CTR,
    Scheme.CFB: CFB,
}
_HPKE_KEMS: Mapping[str, hpke.KEM] = {
    "X25519": hpke.KEM.X25519,
    "EC-P256": hpke.KEM.P256,
    "EC-P384": hpke.KEM.P384,
    "EC-P521": hpke.KEM.P521,
    "X-Wing": hpke.KEM.MLKEM768_X25519,
}
_HPKE_KDFS = {"SHA-256": hpke.KDF.HKDF_SHA256, "SHA-384": hpke.KDF.HKDF_SHA384, "SHA-512": hpke.KDF.HKDF_SHA512}
_HPKE_AEADS = {
    "AES-128-GCM": hpke.AEAD.AES_128_GCM,
    "AES-256-GCM": hpke.AEAD.AES_256_GCM,
    "ChaCha20-Poly1305": hpke.AEAD.CHACHA20_POLY1305,
}


class Software:
    """Keys of pyca/cryptography."""

    def operation(self, row: Algorithm, key_type: KeyType | None, operation: KeyOperation) -> Operation:
        make = _SCHEMES.get(row.scheme)
        if make is None:
            raise NoDirectCall(f"cryptography has no {row.scheme} of its own")
        return make(row, key_type, operation)


def _rsa_signature(row: Algorithm, key_type: KeyType | None, operation: KeyOperation) -> Operation:
    key, hash_ = _rsa(_bits(key_type)), HASHES[row.hash]
    scheme: rsa_padding.AsymmetricPadding = rsa_padding.PKCS1v15()
    if row.scheme is Scheme.RSASSA_PSS:
        scheme = rsa_padding.PSS(rsa_padding.MGF1(hash_), hash_.digest_size)
    message = payload(row)
    if operation is KeyOperation.SIGN:
        return lambda: key.sign(message, scheme, hash_)
    public, signature = key.public_key(), key.sign(message, scheme, hash_)
    return lambda: public.verify(signature, message, scheme, hash_)


def _rsa_encryption(row: Algorithm, key_type: KeyType | None, operation: KeyOperation) -> Operation:
    key, data = _rsa(_bits(key_type)), payload(row)
    scheme: rsa_padding.AsymmetricPadding = rsa_padding.PKCS1v15()
    if row.scheme is Scheme.RSAES_OAEP:
        scheme = rsa_padding.OAEP(rsa_padding.MGF1(HASHES[row.hash]), HASHES[row.hash], None)
    public = key.public_key()
    if operation is KeyOperation.ENCRYPT:
        return lambda: public.encrypt(data, scheme)
    ciphertext = public.encrypt(data, scheme)
    return lambda: key.decrypt(ciphertext, scheme)


def _ecdsa(row: Algorithm, key_type: KeyType | None, operation: KeyOperation) -> Operation:
    key, scheme, message = _ec(_name(key_type)), ec.ECDSA(HASHES[row.hash]), payload(row)
    if operation is KeyOperation.SIGN:
        return lambda: key.sign(message, scheme)
    public, signature = key.public_key(), key.sign(message, scheme)
    return lambda: public.verify(signature, message, scheme)


_Signer = (
    ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)


def _plain_signature(row: Algorithm, key_type: KeyType | None, operation: KeyOperation) -> Operation:
    key, message = _SIGNERS[_name(key_type)](), payload(row)
    if operation is KeyOperation.SIGN:
        return lambda: key.sign(message)
    public, signature = key.public_key(), key.sign(message)
    return lambda: public.verify(signature, message)


def _ecdh(_row: Algorithm, key_type: KeyType | None, _operation: KeyOperation) -> Operation:
    key, peer = _ec(_name(key_type)), ec.generate_private_key(_CURVES[_name(key_type)]).public_key()
    return lambda: _hkdf().derive(key.exchange(ec.ECDH(), peer))


def _xdh(row: Algorithm, _key_type: KeyType | None, _operation: KeyOperation) -> Operation:
    if row.name == "X25519":
        key, peer = x25519.X25519PrivateKey.generate(), x25519.X25519PrivateKey.generate().public_key()
        return lambda: _hkdf().derive(key.exchange(peer))
    longer, other = x448.X448PrivateKey.generate(), x448.X448PrivateKey.generate().public_key()
    return lambda: _hkdf().derive(longer.exchange(other))


def _hkdf() -> HKDF:
    return HKDF(hashes.SHA256(), DERIVED, b"", b"")


def _ml_kem(_row: Algorithm, key_type: KeyType | None, operation: KeyOperation) -> Operation:
    key = _ML_KEM[_name(key_type)]()
    public = key.public_key()
    if operation is KeyOperation.ENCAPSULATE:
        return public.encapsulate
    _, ciphertext = public.encapsulate()
    return lambda: key.decapsulate(ciphertext)


def _hpke(row: Algorithm, key_type: KeyType | None, operation: KeyOperation) -> Operation:
    name, data = _name(key_type), payload(row)
    suite, key = hpke.Suite(_HPKE_KEMS[name], _HPKE_KDFS[row.hash], _HPKE_AEADS[row.aead]), _recipient(name)
    public = key.public_key()
    if operation is KeyOperation.ENCRYPT:
        return lambda: suite.encrypt(data, public)
    ciphertext = suite.encrypt(data, public)
    return lambda: suite.decrypt(ciphertext, key)


def _recipient(name: str) -> ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey | hpke.MLKEM768X25519PrivateKey:
    if name in _CURVES:
        return _ec(name)
    if name == "X25519":
        return x25519.X25519PrivateKey.generate()
    return hpke.MLKEM768X25519PrivateKey(mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate())


def _aead(row: Algorithm, key_type: KeyType | None, operation: KeyOperation) -> Operation:
    ciphers: Mapping[Scheme, Callable[[bytes], AESGCM | AESCCM | ChaCha20Poly1305]] = {
        Scheme.GCM: AESGCM,
        Scheme.CCM: AESCCM,
        Scheme.CHACHA20_POLY1305: ChaCha20Poly1305,
    }
    cipher, data = ciphers[row.scheme](os.urandom(_bits(key_type) // 8)), payload(row)
    nonce = bytes(row.nonce_size)
    if operation is KeyOperation.ENCRYPT:
        counter = iter(range(1 << 62))
        return lambda: cipher.encrypt(next(counter).to_bytes(row.nonce_size, "big"), data, None)
    ciphertext = cipher.encrypt(nonce, data, None)
    return lambda: cipher.decrypt(nonce, ciphertext, None)


def _mode(row: Algorithm, key_type: KeyType | None, operation: KeyOperation) -> Operation:
    made = _MODES[row.scheme]
    algorithm, data = algorithms.AES(os.urandom(_bits(key_type) // 8)), payload(row)
    padded = row.scheme is Scheme.CBC
    block = padding.PKCS7(128)

    def encrypt() -> bytes:
        iv = os.urandom(16)
        encryptor = Cipher(algorithm, made(iv)).encryptor()
        text = data
        if padded:
            padder = block.padder()
            text = padder.update(data) + padder.finalize()
        return iv + encryptor.update(text) + encryptor.finalize()

    if operation is KeyOperation.ENCRYPT:
        return encrypt
    sealed = encrypt()

    def decrypt() -> bytes:
        decryptor = Cipher(algorithm, made(sealed[:16])).decryptor()
        text = decryptor.update(sealed[16:]) + decryptor.finalize()
        if not padded:
            return text
        unpadder = block.unpadder()
        return unpadder.update(text) + unpadder.finalize()

    return decrypt


def _mac(row: Algorithm, key_type: KeyType | None, operation: KeyOperation) -> Operation:
    key, data = os.urandom(_bits(key_type) // 8), payload(row)

    def start() -> hmac.HMAC | cmac.CMAC:
        computed = cmac.CMAC(algorithms.AES(key)) if row.scheme is Scheme.CMAC else hmac.HMAC(key, HASHES[row.hash])
        computed.update(data)
        return computed

    if operation is KeyOperation.SIGN:
        return lambda: start().finalize()
    value = start().finalize()
    return lambda: start().verify(value)


def _digest(row: Algorithm, _key_type: KeyType | None, _operation: KeyOperation) -> Operation:
    data, hash_ = payload(row), HASHES[row.name]
    return lambda: hashes.Hash.hash(hash_, data)


def _kdf(row: Algorithm, key_type: KeyType | None, _operation: KeyOperation) -> Operation:
    """A new object a call: one derives once."""
    kdf, secret = kdf_of(row), os.urandom(_bits(key_type) // 8)
    match kdf:
        case Hkdf():
            return lambda: HKDF(HASHES[row.hash], DERIVED, kdf.salt, kdf.info).derive(secret)
        case Pbkdf2():
            return lambda: PBKDF2HMAC(HASHES[row.hash], DERIVED, kdf.salt, kdf.iterations).derive(secret)
        case KbkdfCounter():
            return lambda: KBKDFHMAC(
                HASHES[row.hash],
                Mode.CounterMode,
                DERIVED,
                4,
                4,
                CounterLocation.BeforeFixed,
                kdf.label,
                kdf.context,
                None,
            ).derive(secret)
        case X963():
            return lambda: X963KDF(HASHES[row.hash], DERIVED, kdf.shared_info).derive(secret)
        case Tls13ExpandLabel():
            label = b"tls13 " + kdf.label
            info = DERIVED.to_bytes(2) + bytes((len(label),)) + label + bytes((len(kdf.context),)) + kdf.context
            return lambda: HKDFExpand(HASHES[row.hash], DERIVED, info).derive(secret)
        case Scrypt():
            return lambda: scrypt.Scrypt(kdf.salt, DERIVED, kdf.cost, kdf.block_size, kdf.parallelization).derive(
                secret
            )
        case Argon2id():
            return lambda: argon2.Argon2id(
                salt=kdf.salt, length=DERIVED, iterations=kdf.iterations, lanes=kdf.lanes, memory_cost=kdf.memory
            ).derive(secret)
        case _:
            raise NoDirectCall(f"cryptography has no {row.scheme} of its own")


_SCHEMES: Mapping[Scheme, Callable[[Algorithm, KeyType | None, KeyOperation], Operation]] = {
    Scheme.RSASSA_PKCS1: _rsa_signature,
    Scheme.RSASSA_PSS: _rsa_signature,
    Scheme.RSAES_OAEP: _rsa_encryption,
    Scheme.RSAES_PKCS1: _rsa_encryption,
    Scheme.ECDSA: _ecdsa,
    Scheme.EDDSA: _plain_signature,
    Scheme.ML_DSA: _plain_signature,
    Scheme.ECDH: _ecdh,
    Scheme.XDH: _xdh,
    Scheme.ML_KEM: _ml_kem,
    Scheme.HPKE: _hpke,
    Scheme.GCM: _aead,
    Scheme.CCM: _aead,
    Scheme.CHACHA20_POLY1305: _aead,
    Scheme.CBC: _mode,
    Scheme.CTR: _mode,
    Scheme.CFB: _mode,
    Scheme.HMAC: _mac,
    Scheme.CMAC: _mac,
    Scheme.HASH: _digest,
    Scheme.HKDF: _kdf,
    Scheme.PBKDF2: _kdf,
    Scheme.KBKDF_COUNTER: _kdf,
    Scheme.X963: _kdf,
    Scheme.SCRYPT: _kdf,
    Scheme.TLS13_EXPAND_LABEL: _kdf,
    Scheme.ARGON2ID: _kdf,
}


@cache
def _rsa(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def _ec(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(_CURVES[name])


def _name(key_type: KeyType | None) -> str:
    if key_type is None:
        raise NoDirectCall("there is no key")
    return key_type.name


def _bits(key_type: KeyType | None) -> int:
    return 256 if key_type is None else key_type.bits
