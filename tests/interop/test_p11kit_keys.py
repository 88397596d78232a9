"""Keys that come and go through PKCS#11: imported, wrapped, unwrapped, kept; modes of AES; known attacks refused."""

import os
import struct
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC

from hsmbridge.frontends.p11kit.numbers import Cka, Ckr
from tests.interop.p11kit_client import CkrError, Client, Service, ay, fy, octets, service, template, u

__all__ = ["service"]

AES_GEN, GCM, CBC_PAD, CMAC_, OAEP, ECDSA, SHA256_RSA, RSA_GEN = (
    *(0x1080, 0x1087, 0x1085, 0x108A, 0x9, 0x1041, 0x40, 0x0),
)
AES, RSA, EC, SECRET, PRIVATE, PUBLIC = 0x1F, 0x0, 0x3, 4, 3, 2
P256 = bytes.fromhex("06082a8648ce3d030107")


def refused(*expected: Ckr) -> "pytest.RaisesExc[CkrError]":
    return pytest.raises(CkrError, match="^(" + "|".join(f"{ckr.value:#x}" for ckr in expected) + ")$")


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with service.client() as connected:
        yield connected


@pytest.fixture
def session(client: Client) -> int:
    return client.open(client.slot("software"))


def gcm(nonce: bytes) -> bytes:
    return octets(nonce) + u(8 * len(nonce)) + octets(b"") + u(128)


def generate(client: Client, session: int, **wanted: int | bytes) -> int:
    handle: int = client.call(
        "C_GenerateKey", u(session), client.mechanism(AES_GEN, plain=True), template(VALUE_LEN=32, **wanted)
    )
    return handle


def create(client: Client, session: int, **wanted: int | bytes) -> int:
    handle: int = client.call("C_CreateObject", u(session), template(**wanted))
    return handle


def with_mechanisms(wanted: bytes, *mechanisms: int) -> bytes:
    """A template and CKA_ALLOWED_MECHANISMS."""
    allowed = struct.pack(">IBI", Cka.ALLOWED_MECHANISMS, 1, 8 * len(mechanisms))
    allowed += struct.pack(">I", len(mechanisms)) + b"".join(u(one) for one in mechanisms)
    return struct.pack(">I", struct.unpack_from(">I", wanted)[0] + 1) + wanted[4:] + allowed


def big(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def cbc_padded(value: bytes, iv: bytes, data: bytes) -> bytes:
    padder, encryptor = padding.PKCS7(128).padder(), Cipher(algorithms.AES(value), modes.CBC(iv)).encryptor()
    return encryptor.update(padder.update(data) + padder.finalize()) + encryptor.finalize()


def test_rsa_and_ec_private_keys_are_imported_and_sign(client: Client, session: int) -> None:
    own = rsa.generate_private_key(65537, 2048)
    numbers = own.private_numbers()
    handle = create(
        client,
        session,
        CLASS=PRIVATE,
        KEY_TYPE=RSA,
        TOKEN=1,
        LABEL=b"imported rsa",
        SIGN=1,
        MODULUS=big(numbers.public_numbers.n),
        PUBLIC_EXPONENT=big(65537),
        PRIVATE_EXPONENT=big(numbers.d),
    )
    client.call("C_SignInit", u(session), client.mechanism(SHA256_RSA, plain=True), u(handle))
    signature = client.call("C_Sign", u(session), ay(b"message"), fy(256))
    own.public_key().verify(signature, b"message", rsa_padding.PKCS1v15(), hashes.SHA256())
    client.call("C_DestroyObject", u(session), u(handle))

    curve = ec.generate_private_key(ec.SECP256R1())
    value = curve.private_numbers().private_value.to_bytes(32, "big")
    handle = create(client, session, CLASS=PRIVATE, KEY_TYPE=EC, EC_PARAMS=P256, VALUE=value, SIGN=1)
    client.call("C_SignInit", u(session), client.mechanism(ECDSA, plain=True), u(handle))
    assert len(client.call("C_Sign", u(session), ay(b"d" * 32), fy(64))) == 64
    assert client.attributes(session, handle, Cka.VALUE)[1] == Ckr.ATTRIBUTE_SENSITIVE


def test_a_public_key_is_kept_and_verifies(client: Client, session: int) -> None:
    own = rsa.generate_private_key(65537, 2048)
    numbers = own.public_key().public_numbers()
    handle = create(
        client,
        session,
        CLASS=PUBLIC,
        KEY_TYPE=RSA,
        TOKEN=1,
        LABEL=b"peer",
        VERIFY=1,
        MODULUS=big(numbers.n),
        PUBLIC_EXPONENT=big(numbers.e),
    )
    assert client.find(session, LABEL=b"peer") == [handle]
    client.call("C_VerifyInit", u(session), client.mechanism(SHA256_RSA, plain=True), u(handle))
    signature = own.sign(b"message", rsa_padding.PKCS1v15(), hashes.SHA256())
    client.call("C_Verify", u(session), ay(b"message"), ay(signature))
    client.call("C_DestroyObject", u(session), u(handle))
    assert client.find(session, LABEL=b"peer") == []


def test_cbc_and_cmac_agree_with_others(client: Client, session: int) -> None:
    value, iv = os.urandom(32), os.urandom(16)
    wanted = template(CLASS=SECRET, KEY_TYPE=AES, TOKEN=1, LABEL=b"cbc", VALUE=value, ENCRYPT=1, DECRYPT=1)
    handle = client.call("C_CreateObject", u(session), with_mechanisms(wanted, CBC_PAD))
    client.call("C_EncryptInit", u(session), client.mechanism(CBC_PAD, octets(iv)), u(handle))
    encrypted = client.call("C_Encrypt", u(session), ay(b"sixteen bytes..."), fy(32))
    decryptor = Cipher(algorithms.AES(value), modes.CBC(iv)).decryptor()
    unpadder = padding.PKCS7(128).unpadder()
    assert unpadder.update(decryptor.update(encrypted)) + unpadder.finalize() == b"sixteen bytes..."
    client.call("C_DecryptInit", u(session), client.mechanism(CBC_PAD, octets(iv)), u(handle))
    assert client.call("C_Decrypt", u(session), ay(encrypted), fy(32)) == b"sixteen bytes..."
    client.call("C_DestroyObject", u(session), u(handle))

    handle = create(client, session, CLASS=SECRET, KEY_TYPE=AES, VALUE=value, SIGN=1, VERIFY=1)
    client.call("C_SignInit", u(session), client.mechanism(CMAC_, plain=True), u(handle))
    for part in (b"in ", b"parts"):
        client.call("C_SignUpdate", u(session), ay(part))
    expected = CMAC(algorithms.AES(value))
    expected.update(b"in parts")
    assert client.call("C_SignFinal", u(session), fy(16)) == expected.finalize()


@pytest.mark.parametrize("token", ["software", "softhsm"])
@pytest.mark.parametrize("mode", [GCM, CBC_PAD], ids=["GCM", "CBC"])
def test_a_key_of_a_session_encrypts_with_ivs_of_the_application(client: Client, token: str, mode: int) -> None:
    session = client.open(client.slot(token))
    value, plain = os.urandom(32), b"sixteen bytes..."
    key = create(client, session, CLASS=SECRET, KEY_TYPE=AES, VALUE=value, ENCRYPT=1, DECRYPT=1)
    others = {
        GCM: (gcm(b"n" * 12), AESGCM(value).encrypt(b"n" * 12, plain, b"")),
        CBC_PAD: (octets(b"i" * 16), cbc_padded(value, b"i" * 16, plain)),
    }
    parameter, expected = others.pop(mode)
    client.call("C_EncryptInit", u(session), client.mechanism(mode, parameter), u(key))
    assert client.call("C_Encrypt", u(session), ay(plain), fy(64)) == expected
    client.call("C_EncryptInit", u(session), client.mechanism(mode, parameter), u(key))
    with refused(Ckr.ARGUMENTS_BAD):
        client.call("C_Encrypt", u(session), ay(b"something else"), fy(64))
    for _ in range(2):
        client.call("C_DecryptInit", u(session), client.mechanism(mode, parameter), u(key))
        assert client.call("C_Decrypt", u(session), ay(expected), fy(64)) == plain
    ((other, (parameter, expected)),) = others.items()
    client.call("C_EncryptInit", u(session), client.mechanism(other, parameter), u(key))
    with refused(Ckr.MECHANISM_INVALID):
        client.call("C_Encrypt", u(session), ay(plain), fy(64))
    client.call("C_DecryptInit", u(session), client.mechanism(other, parameter), u(key))
    assert client.call("C_Decrypt", u(session), ay(expected), fy(64)) == plain
    with refused(Ckr.ACTION_PROHIBITED):
        client.call("C_CopyObject", u(session), u(key), template(TOKEN=1, LABEL=b"its IVs are not known there"))


def test_a_key_of_a_session_encrypts_in_parts(client: Client, session: int) -> None:
    value = os.urandom(32)
    key = create(client, session, CLASS=SECRET, KEY_TYPE=AES, VALUE=value, ENCRYPT=1)
    client.call("C_EncryptInit", u(session), client.mechanism(GCM, gcm(b"p" * 12)), u(key))
    for part in (b"in ", b"parts"):
        assert client.call("C_EncryptUpdate", u(session), ay(part), fy(64)) == b""
    sealed = client.call("C_EncryptFinal", u(session), fy(64))
    assert AESGCM(value).decrypt(b"p" * 12, sealed, b"") == b"in parts"


def test_a_key_of_a_session_does_not_wrap_by_what_its_template_leaves_out(client: Client, session: int) -> None:
    wanted = template(VALUE_LEN=32, WRAP=1, UNWRAP=1)
    handle = client.call(
        "C_GenerateKey", u(session), client.mechanism(AES_GEN, plain=True), with_mechanisms(wanted, CBC_PAD)
    )
    key = generate(client, session, ENCRYPT=1, EXTRACTABLE=1)
    mechanism = client.mechanism(GCM, gcm(b"w" * 12))
    with refused(Ckr.MECHANISM_INVALID):
        client.call("C_WrapKey", u(session), mechanism, u(handle), u(key), fy(48))
    material = template(CLASS=SECRET, KEY_TYPE=AES, VALUE_LEN=32, ENCRYPT=1)
    with refused(Ckr.MECHANISM_INVALID):
        client.call("C_UnwrapKey", u(session), mechanism, u(handle), ay(bytes(48)), material)


def test_a_key_of_a_session_wraps(client: Client, session: int) -> None:
    wrapping = generate(client, session, WRAP=1, UNWRAP=1)
    key = generate(client, session, ENCRYPT=1, DECRYPT=1, EXTRACTABLE=1)
    mechanism = client.mechanism(GCM, gcm(b"w" * 12))
    wrapped = client.call("C_WrapKey", u(session), mechanism, u(wrapping), u(key), fy(48))
    wanted = template(CLASS=SECRET, KEY_TYPE=AES, VALUE_LEN=32, ENCRYPT=1, DECRYPT=1)
    unwrapped = client.call("C_UnwrapKey", u(session), mechanism, u(wrapping), ay(wrapped), wanted)
    client.call("C_EncryptInit", u(session), client.mechanism(GCM, gcm(b"n" * 12)), u(unwrapped))
    sealed = client.call("C_Encrypt", u(session), ay(b"message"), fy(64))
    client.call("C_DecryptInit", u(session), client.mechanism(GCM, gcm(b"n" * 12)), u(key))
    assert client.call("C_Decrypt", u(session), ay(sealed), fy(64)) == b"message"
    with refused(Ckr.ARGUMENTS_BAD):
        client.call("C_WrapKey", u(session), mechanism, u(wrapping), u(key), fy(48))


def test_a_key_is_wrapped_and_unwrapped_and_is_the_same(client: Client, session: int) -> None:
    wrapping = generate(client, session, TOKEN=1, LABEL=b"wrapping", WRAP=1, UNWRAP=1)
    value = os.urandom(32)
    key = create(client, session, CLASS=SECRET, KEY_TYPE=AES, VALUE=value, ENCRYPT=1, DECRYPT=1, EXTRACTABLE=1)
    mechanism = client.mechanism(GCM, gcm(b"w" * 12))
    needed = client.call("C_WrapKey", u(session), mechanism, u(wrapping), u(key), fy(0))
    wrapped = client.call("C_WrapKey", u(session), mechanism, u(wrapping), u(key), fy(needed))
    assert len(wrapped) == 48
    unwrapped = client.call(
        "C_UnwrapKey",
        *(u(session), mechanism, u(wrapping), ay(wrapped)),
        template(CLASS=SECRET, KEY_TYPE=AES, VALUE_LEN=32, TOKEN=1, LABEL=b"unwrapped", ENCRYPT=1, DECRYPT=1),
    )
    encrypted = AESGCM(value).encrypt(b"n" * 12, b"message", b"")
    client.call("C_DecryptInit", u(session), client.mechanism(GCM, gcm(b"n" * 12)), u(unwrapped))
    assert client.call("C_Decrypt", u(session), ay(encrypted), fy(100)) == b"message"
    assert client.attributes(session, unwrapped, Cka.EXTRACTABLE)[0] == {Cka.EXTRACTABLE: 0}
    for handle in (unwrapped, wrapping):
        client.call("C_DestroyObject", u(session), u(handle))


def test_a_session_key_is_kept_by_copying_it(client: Client, session: int) -> None:
    _, private = client.key_pair(session, TOKEN=0, SIGN=1)
    kept = client.call("C_CopyObject", u(session), u(private), template(TOKEN=1, LABEL=b"kept"))
    client.call("C_DestroyObject", u(session), u(private))
    client.call("C_SignInit", u(session), client.mechanism(ECDSA, plain=True), u(kept))
    assert len(client.call("C_Sign", u(session), ay(b"d" * 32), fy(64))) == 64
    client.call("C_DestroyObject", u(session), u(kept))


# Attacks (Clulow 2003; Bortolozzo, Centenaro, Focardi, Steel 2010)


def test_what_wraps_does_not_decrypt(client: Client, session: int) -> None:
    both = generate(client, session, TOKEN=1, LABEL=b"both", WRAP=1, DECRYPT=1)
    asked = (Cka.WRAP, Cka.DECRYPT)
    assert client.attributes(session, both, *asked)[0] == {Cka.WRAP: 0, Cka.DECRYPT: 1}
    with refused(Ckr.KEY_FUNCTION_NOT_PERMITTED):
        client.call("C_WrapKey", u(session), client.mechanism(GCM, gcm(b"w" * 12)), u(both), u(both), fy(100))
    with refused(Ckr.ATTRIBUTE_READ_ONLY):
        client.call("C_SetAttributeValue", u(session), u(both), template(WRAP=1))
    client.call("C_DestroyObject", u(session), u(both))


def test_a_known_wrapping_key_cannot_be_brought_in(client: Client, session: int) -> None:
    known = create(client, session, CLASS=SECRET, KEY_TYPE=AES, VALUE=b"k" * 32, WRAP=1, UNWRAP=1, ENCRYPT=1)
    values = client.attributes(session, known, Cka.WRAP, Cka.UNWRAP, Cka.ENCRYPT)[0]
    assert values == {Cka.WRAP: 0, Cka.UNWRAP: 0, Cka.ENCRYPT: 1}


def test_a_key_that_may_not_leave_does_not(client: Client, session: int) -> None:
    wrapping = generate(client, session, TOKEN=1, LABEL=b"greedy", WRAP=1)
    staying = generate(client, session, TOKEN=1, LABEL=b"staying", ENCRYPT=1)
    mechanism = client.mechanism(GCM, gcm(b"w" * 12))
    with refused(Ckr.KEY_UNEXTRACTABLE):
        client.call("C_WrapKey", u(session), mechanism, u(wrapping), u(staying), fy(100))
    with refused(Ckr.ATTRIBUTE_READ_ONLY):
        client.call("C_SetAttributeValue", u(session), u(staying), template(EXTRACTABLE=1))
    with refused(Ckr.ATTRIBUTE_READ_ONLY):
        client.call("C_SetAttributeValue", u(session), u(staying), template(SENSITIVE=0))
    for handle in (wrapping, staying):
        client.call("C_DestroyObject", u(session), u(handle))


def test_an_unwrapped_key_does_not_wrap_and_does_not_leave(client: Client, session: int) -> None:
    wrapping = generate(client, session, TOKEN=1, LABEL=b"inner", WRAP=1, UNWRAP=1)
    key = generate(client, session, ENCRYPT=1, EXTRACTABLE=1)
    mechanism = client.mechanism(GCM, gcm(b"w" * 12))
    wrapped = client.call("C_WrapKey", u(session), mechanism, u(wrapping), u(key), fy(48))
    unwrapped = client.call(
        "C_UnwrapKey",
        *(u(session), mechanism, u(wrapping), ay(wrapped)),
        template(CLASS=SECRET, KEY_TYPE=AES, VALUE_LEN=32, WRAP=1, DECRYPT=1, EXTRACTABLE=1, SENSITIVE=0),
    )
    values = client.attributes(session, unwrapped, Cka.WRAP, Cka.DECRYPT, Cka.EXTRACTABLE, Cka.SENSITIVE)[0]
    assert values == {Cka.WRAP: 0, Cka.DECRYPT: 1, Cka.EXTRACTABLE: 0, Cka.SENSITIVE: 1}
    with refused(Ckr.ENCRYPTED_DATA_INVALID):
        client.call(
            "C_UnwrapKey",
            *(u(session), mechanism, u(wrapping), ay(wrapped[:-1] + b"x")),
            template(CLASS=SECRET, KEY_TYPE=AES, VALUE_LEN=32, ENCRYPT=1),
        )
    client.call("C_DestroyObject", u(session), u(wrapping))


def test_the_length_of_a_key_is_not_changed_on_its_way(client: Client, session: int) -> None:
    wrapping = generate(client, session, TOKEN=1, LABEL=b"short", WRAP=1, UNWRAP=1)
    key = generate(client, session, ENCRYPT=1, EXTRACTABLE=1)
    mechanism = client.mechanism(GCM, gcm(b"w" * 12))
    wrapped = client.call("C_WrapKey", u(session), mechanism, u(wrapping), u(key), fy(48))
    with pytest.raises(CkrError):
        client.call(
            "C_UnwrapKey",
            *(u(session), mechanism, u(wrapping), ay(wrapped)),
            template(CLASS=SECRET, KEY_TYPE=AES, VALUE_LEN=16, ENCRYPT=1),
        )
    client.call("C_DestroyObject", u(session), u(wrapping))


def test_a_point_that_is_on_no_curve_agrees_on_nothing(client: Client, session: int) -> None:
    _, private = client.key_pair(session, TOKEN=0, DERIVE=1)
    wanted = template(CLASS=SECRET, KEY_TYPE=0x10, VALUE_LEN=32, SIGN=1)
    for point in (b"\4" + b"\1" * 64, b"\4" + b"\0" * 64, b"\0", b""):
        parameter = u(1) + octets(b"") + octets(point)
        with pytest.raises(CkrError):
            client.call("C_DeriveKey2", u(session), client.mechanism(0x1050, parameter), u(private), wanted)
