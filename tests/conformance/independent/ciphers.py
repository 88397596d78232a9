"""Encryption done elsewhere: modes by openssl, AEADs put together from openssl's block and stream ciphers."""

from collections.abc import Callable, Mapping

from hsmbridge.core.algorithms import Algorithm, Scheme
from tests.conformance.independent import openssl

_BLOCK = 16


def encrypt(row: Algorithm, key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:
    """(ciphertext, tag) under a key that both sides know."""
    return _ENCRYPT[row.scheme](row, key, nonce, plaintext, aad)


def oaep_encrypt(row: Algorithm, spki: bytes, plaintext: bytes) -> bytes:
    return openssl.run("pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", "{key}", *_oaep(row),
                       "-in", "{data}", key=spki, data=plaintext)  # fmt: skip


def oaep_decrypt(row: Algorithm, pkcs8: bytes, ciphertext: bytes) -> bytes:
    return openssl.run("pkeyutl", "-decrypt", "-keyform", "DER", "-inkey", "{key}", *_oaep(row),
                       "-in", "{data}", key=pkcs8, data=ciphertext)  # fmt: skip


def pkcs1_encrypt(spki: bytes, plaintext: bytes) -> bytes:
    return openssl.run("pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", "{key}",
                       "-in", "{data}", key=spki, data=plaintext)  # fmt: skip


def _oaep(row: Algorithm) -> list[str]:
    options = ("rsa_padding_mode:oaep", f"rsa_oaep_md:{row.hash}", f"rsa_mgf1_md:{row.hash}")
    return [word for option in options for word in ("-pkeyopt", option)]


def _enc(cipher: str, key: bytes, iv: bytes, data: bytes, *more: str) -> bytes:
    vector = ("-iv", iv.hex()) if iv else ()
    return openssl.run("enc", f"-{cipher}", "-K", key.hex(), *vector, *more, "-in", "{data}", data=data)


def _mode(row: Algorithm, key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:
    return _enc(f"aes-{8 * len(key)}-{row.name.rsplit('-', 1)[1].lower()}", key, nonce, plaintext), b""


def _block(key: bytes, data: bytes) -> bytes:
    return _enc(f"aes-{8 * len(key)}-ecb", key, b"", data, "-nopad")


def _counter(key: bytes, first: bytes, data: bytes) -> bytes:
    return _enc(f"aes-{8 * len(key)}-ctr", key, first, data)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK)


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _gcm(row: Algorithm, key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:
    """SP 800-38D section 7.1, for nonces of 96 bits."""
    subkey = _block(key, bytes(_BLOCK))
    ciphertext = _counter(key, nonce + b"\0\0\0\2", plaintext)
    lengths = (8 * len(aad)).to_bytes(8, "big") + (8 * len(ciphertext)).to_bytes(8, "big")
    hashed = _ghash(subkey, _pad(aad) + _pad(ciphertext) + lengths)
    return ciphertext, _xor(hashed, _block(key, nonce + b"\0\0\0\1"))


def _ghash(subkey: bytes, data: bytes) -> bytes:
    """SP 800-38D section 6.4."""
    h = int.from_bytes(subkey, "big")
    y = 0
    for start in range(0, len(data), _BLOCK):
        y = _multiply(y ^ int.from_bytes(data[start : start + _BLOCK], "big"), h)
    return y.to_bytes(_BLOCK, "big")


def _multiply(x: int, y: int) -> int:
    """SP 800-38D section 6.3: bit 0 is the leftmost."""
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product


def _ccm(row: Algorithm, key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:
    """SP 800-38C section 6.1 and appendix A."""
    q = 15 - len(nonce)
    flags = 64 * bool(aad) + 8 * ((row.tag_size - 2) // 2) + q - 1
    blocks = bytes((flags,)) + nonce + len(plaintext).to_bytes(q, "big")
    if aad:
        blocks += _pad(len(aad).to_bytes(2, "big") + aad)
    chained = _enc(f"aes-{8 * len(key)}-cbc", key, bytes(_BLOCK), blocks + _pad(plaintext), "-nopad")
    counter = bytes((q - 1,)) + nonce
    stream = _counter(key, counter + bytes(q), bytes(_BLOCK) + plaintext)
    return stream[_BLOCK:], _xor(chained[-_BLOCK:], stream[:_BLOCK])[: row.tag_size]


def _chacha20_poly1305(row: Algorithm, key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> tuple[bytes, bytes]:
    """RFC 8439 section 2.8; openssl's iv is the 32-bit counter, then the nonce."""
    one_time = _enc("chacha20", key, bytes(4) + nonce, bytes(32))
    ciphertext = _enc("chacha20", key, b"\1\0\0\0" + nonce, plaintext)
    lengths = len(aad).to_bytes(8, "little") + len(ciphertext).to_bytes(8, "little")
    data = _pad(aad) + _pad(ciphertext) + lengths
    tag = openssl.run("mac", "-macopt", f"hexkey:{one_time.hex()}", "-binary", "-in", "{data}", "POLY1305", data=data)
    return ciphertext, tag


_ENCRYPT: Mapping[Scheme, Callable[[Algorithm, bytes, bytes, bytes, bytes], tuple[bytes, bytes]]] = {
    Scheme.GCM: _gcm,
    Scheme.CCM: _ccm,
    Scheme.CHACHA20_POLY1305: _chacha20_poly1305,
    Scheme.CBC: _mode,
    Scheme.CTR: _mode,
    Scheme.CFB: _mode,
}
