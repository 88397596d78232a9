"""Keys in the formats of other programs: what is written comes back, as the RFCs have it, and noise is refused."""

import base64
import json
from collections.abc import Callable, Mapping
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, mlkem, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from hsmbridge.client.key_formats import cbor, jwk
from hsmbridge.client.key_formats.asymmetric import spki_of
from hsmbridge.client.key_formats.given import read_key
from hsmbridge.client.key_formats.jwk import jwk_set
from hsmbridge.client.key_formats.names import Format, PublicKeyFormat
from hsmbridge.client.key_formats.public import write_public_key
from hsmbridge.client.key_formats.registries import REGISTERED
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.secrets import Secret

MAKERS: Mapping[str, Callable[[], PrivateKeyTypes]] = {
    "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
    "EC-P256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EC-P384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "EC-P521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
    "X25519": x25519.X25519PrivateKey.generate,
    "X448": x448.X448PrivateKey.generate,
    "ML-DSA-44": mldsa.MLDSA44PrivateKey.generate,
    "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey.generate,
    "ML-KEM-768": mlkem.MLKEM768PrivateKey.generate,
    "ML-KEM-1024": mlkem.MLKEM1024PrivateKey.generate,
}
KEYS = {name: make() for name, make in MAKERS.items()}
SSH = {"RSA-2048", "EC-P256", "EC-P384", "EC-P521", "Ed25519"}


def pkcs8(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def refused(data: bytes, format_: Format = Format.AUTO, passphrase: Secret | None = None) -> RequestError:
    with pytest.raises(RequestError) as refusal:
        read_key(data, format_, passphrase)
    return refusal.value


def base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


# Public keys


@pytest.mark.parametrize("format_", PublicKeyFormat)
@pytest.mark.parametrize("name", KEYS)
def test_a_public_key_comes_back_from_every_format_that_has_a_form_for_it(name: str, format_: PublicKeyFormat) -> None:
    spki = spki_of(KEYS[name].public_key())
    has_form = {PublicKeyFormat.SSH: SSH, PublicKeyFormat.JWK: REGISTERED, PublicKeyFormat.COSE: REGISTERED}
    if name not in has_form.get(format_, KEYS):
        with pytest.raises(RequestError) as refusal:
            write_public_key(spki, format_)
        assert refusal.value.status is Status.NOT_SUPPORTED
        return
    written = write_public_key(spki, format_, comment="uid-1000/web")
    for said in (Format.AUTO, Format(format_)):
        found = read_key(written, said)
        assert (found.form, found.key_type, found.material) == ("spki", name, spki)


@given(scalar=st.integers(1, 2**255), curve=st.sampled_from([ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]))
def test_any_point_comes_back(scalar: int, curve: ec.EllipticCurve) -> None:
    spki = spki_of(ec.derive_private_key(scalar, curve).public_key())
    for format_ in PublicKeyFormat:
        assert read_key(write_public_key(spki, format_)).material == spki


@given(seed=st.binary(min_size=32, max_size=32))
def test_any_string_of_octets_comes_back(seed: bytes) -> None:
    for key in (
        ed25519.Ed25519PrivateKey.from_private_bytes(seed),
        x25519.X25519PrivateKey.from_private_bytes(seed),
    ):
        spki = spki_of(key.public_key())
        for format_ in (PublicKeyFormat.JWK, PublicKeyFormat.COSE, PublicKeyFormat.PEM):
            assert read_key(write_public_key(spki, format_)).material == spki


def test_the_jwk_of_rfc_8037_comes_out_with_its_thumbprint() -> None:
    # RFC 8037 appendices A.2 and A.3
    x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    key = ed25519.Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "="))
    written = json.loads(write_public_key(spki_of(key), PublicKeyFormat.JWK))
    thumbprint = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert written == {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": thumbprint}


def test_the_thumbprint_of_rfc_7638_comes_out() -> None:
    # RFC 7638 section 3.1
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjh"
        "Mstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvR"
        "L5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqD"
        "Kgw"
    )
    members = {"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    assert jwk.thumbprint(members) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    assert read_key(json.dumps(members).encode()).key_type == "RSA-2048"


def test_a_cose_key_is_the_shortest_there_is_in_the_order_of_its_octets() -> None:
    # RFC 8152 appendix C.7.1, the key of meriadoc, without its kid
    x = bytes.fromhex("65eda5a12577c2bae829437fe338701a10aaa375e1bb5b5de108de439c08551d")
    y = bytes.fromhex("1e52ed75701163f7f9e40ddf9f341b3dc9ba860af7e0ca7ca7e9eecd0084d19c")
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + x + y)
    written = write_public_key(spki_of(key), PublicKeyFormat.COSE)
    assert written == bytes.fromhex("a4010220012158 20".replace(" ", "")) + x + bytes.fromhex("225820") + y
    compressed = bytes.fromhex("a401022001215820") + x + bytes.fromhex("22f4")
    assert read_key(compressed).material == spki_of(key)


def test_a_set_has_every_key_with_its_thumbprint() -> None:
    spkis = [spki_of(KEYS[name].public_key()) for name in ("EC-P256", "ML-DSA-65")]
    keys = json.loads(jwk_set(spkis))["keys"]
    assert [key["kty"] for key in keys] == ["EC", "AKP"]
    assert [jwk.thumbprint(key) for key in keys] == [key["kid"] for key in keys]
    assert "2 keys" in refused(jwk_set(spkis)).message
    assert read_key(jwk_set(spkis[:1])).material == spkis[0]


# Private and secret keys, which are only read


@pytest.mark.parametrize("name", KEYS)
def test_a_private_key_is_read_from_pem_and_der(name: str) -> None:
    key = KEYS[name]
    for encoding in (Encoding.PEM, Encoding.DER):
        found = read_key(key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption()))
        assert (found.form, found.key_type, found.material) == ("pkcs8", name, pkcs8(key))
        assert repr(found) == f"GivenKey(form='pkcs8', key_type='{name}')"


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_an_encrypted_private_key_needs_its_passphrase(encoding: Encoding) -> None:
    key = KEYS["EC-P256"]
    data = key.private_bytes(encoding, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    assert read_key(data, passphrase=Secret(b"secret")).material == pkcs8(key)
    assert "--passphrase-file" in refused(data).message
    wrong = refused(data, passphrase=Secret(b"another")).message
    assert "passphrase" in wrong
    assert "another" not in wrong.replace("is another one", "")


@pytest.mark.parametrize("name", ["RSA-2048", "EC-P256"])
def test_the_private_keys_of_old_are_read_too(name: str) -> None:
    key = KEYS[name]
    for encryption, passphrase in ((NoEncryption(), None), (BestAvailableEncryption(b"pw"), Secret(b"pw"))):
        data = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, encryption)
        assert read_key(b"Bag Attributes\n" + data, passphrase=passphrase).material == pkcs8(key)


@pytest.mark.parametrize("name", [name for name in REGISTERED if name in KEYS])
def test_a_private_jwk_is_read_and_must_fit_its_public_part(name: str) -> None:
    key = KEYS[name]
    members = json.loads(write_public_key(spki_of(key.public_key()), PublicKeyFormat.JWK))
    other = MAKERS[name]()
    found = read_key(json.dumps(members | private_members(key)).encode())
    assert (found.form, found.key_type) == ("pkcs8", name)
    assert spki_of(load_der_private_key(found.material, None).public_key()) == spki_of(key.public_key())
    assert refused(json.dumps(members | private_members(other)).encode()).status is Status.INVALID_ARGUMENT


def private_members(key: PrivateKeyTypes) -> dict[str, str]:
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        values = {"d": numbers.d, "p": numbers.p, "q": numbers.q}
        values |= {"dp": numbers.dmp1, "dq": numbers.dmq1, "qi": numbers.iqmp}
        return {name: base64url(value.to_bytes((value.bit_length() + 7) // 8, "big")) for name, value in values.items()}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = (key.key_size + 7) // 8
        return {"d": base64url(key.private_numbers().private_value.to_bytes(size, "big"))}
    raw = key.private_bytes_raw()  # type: ignore[union-attr]  # those that are left have it
    return {"priv" if isinstance(key, POSTQUANTUM) else "d": base64url(raw)}


POSTQUANTUM = (mldsa.MLDSA44PrivateKey, mldsa.MLDSA65PrivateKey, mldsa.MLDSA87PrivateKey)


def test_a_secret_key_is_taken_as_it_is_when_it_is_said_to_be_one() -> None:
    secret = bytes(range(0x30, 0x50))
    found = read_key(secret, Format.RAW)
    assert (found.form, found.key_type, found.material) == ("raw", "", secret)
    assert read_key(json.dumps({"kty": "oct", "k": base64url(secret)}).encode()).material == secret
    assert "--format raw" in refused(b"\x00" * 32).message


# What is refused


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "--format raw"),
        (b"hello", "--format raw"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "openssl x509"),
        (b"-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n", "slot adopt"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "ssh-keygen"),
        (b"-----BEGIN PUBLIC KEY-----\nA\n-----END PUBLIC KEY-----\n", "damaged"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n", "public key"),
        (b'{"kty": "EC", "crv": "P-255"}', "EC P-255"),
        (b'{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}', "32 bytes"),
        (b'{"kty": "OKP", "crv": "Ed25519", "x": "AA=="}', "base64url"),
        (b'{"kty": "OKP", "crv": "Ed25519", "x": "AB"}', "base64url"),
        (b'{"kty": "OKP", "crv": "Ed25519"}', "lacks x"),
        (b'{"kty": "OKP", "kty": "EC"}', "JWK"),
        (b"[" * 100_000, "--format raw"),
        (b'{"a":' * 100_000, "JWK"),
        (b"ssh-ed25519 AAAA", "OpenSSH"),
        (b"\xa1\x01\x05", "COSE_Key"),
        (b"\xa0", "COSE_Key"),
        (b"\x30\x00", "damaged"),
        (b"\x30\x06\x02\x01\x00\x02\x01\x00", "SubjectPublicKeyInfo"),
    ],
)
def test_what_is_no_key_is_refused_with_a_word_on_what_to_do(data: bytes, word: str) -> None:
    assert word in refused(data).message


def test_a_private_cose_key_is_refused() -> None:
    data = cbor.encode_map({1: 1, -1: 6, -2: bytes(32), -4: bytes(32)})
    assert "PKCS#8" in refused(data).message


def test_keys_that_are_not_kept_here_are_refused_by_name() -> None:
    small = rsa.generate_private_key(65537, 1024)
    odd = ec.generate_private_key(ec.SECP256K1())
    old = dsa.generate_private_key(2048)
    for key, word in ((small, "1024 bits"), (odd, "1.3.132.0.10"), (old, "1.2.840.10040.4.1")):
        for data in (pkcs8(key), spki_of(key.public_key())):
            refusal = refused(data)
            assert refusal.status is Status.UNKNOWN_KEY_TYPE
            assert word in refusal.message


def test_a_point_that_is_on_no_curve_is_refused() -> None:
    spki = bytearray(spki_of(KEYS["EC-P256"].public_key()))
    spki[-1] ^= 1
    assert refused(bytes(spki)).status is Status.INVALID_ARGUMENT
    good = json.loads(write_public_key(spki_of(KEYS["EC-P256"].public_key()), PublicKeyFormat.JWK))
    assert refused(json.dumps(good | {"y": good["x"]}).encode()).status is Status.INVALID_ARGUMENT


@given(
    name=st.sampled_from(sorted(KEYS)),
    format_=st.sampled_from(PublicKeyFormat),
    cut=st.floats(0, 1),
    flip=st.integers(0, 255),
)
def test_damage_is_refused_or_makes_another_key_never_an_accident(
    name: str, format_: PublicKeyFormat, cut: float, flip: int
) -> None:
    if name not in REGISTERED or name not in SSH:
        format_ = PublicKeyFormat.DER
    data = bytearray(write_public_key(spki_of(KEYS[name].public_key()), format_))
    position = int(cut * (len(data) - 1))
    data[position] ^= flip
    for damaged in (bytes(data), bytes(data[:position])):
        for said in (Format.AUTO, Format(format_)):
            # Anything else than a refusal of ours would come through.
            with suppress(RequestError):
                assert read_key(damaged, said).form == "spki"


@given(data=st.binary(max_size=200), format_=st.sampled_from([one for one in Format if one is not Format.RAW]))
def test_noise_is_refused(data: bytes, format_: Format) -> None:
    assert refused(data, format_).status in (Status.INVALID_ARGUMENT, Status.UNKNOWN_KEY_TYPE)


def test_an_openssh_key_on_a_compressed_point_is_refused() -> None:
    point = (
        ec.derive_private_key(7, ec.SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    )
    fields = (b"ecdsa-sha2-nistp256", b"nistp256", point)
    blob = b"".join(len(field).to_bytes(4) + field for field in fields)
    assert refused(b"ecdsa-sha2-nistp256 " + base64.b64encode(blob)).status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize("filling", [b"\n", b"A\n", b"-----BEGIN PUBLIC KEY-----\n"])
def test_megabytes_of_pem_without_an_end_are_refused(filling: bytes) -> None:
    start = b"-----BEGIN PUBLIC KEY-----\n"
    assert refused(start + filling * (2_000_000 // len(filling))).status is Status.INVALID_ARGUMENT


VALUES = st.one_of(st.integers(-(2**64), 2**64 - 1), st.binary(max_size=300), st.text(max_size=40), st.booleans())


@given(values=st.dictionaries(st.integers(-(2**64), 2**64 - 1), VALUES, max_size=30))
def test_a_map_comes_back_from_cbor(values: dict[int, cbor.Value]) -> None:
    data = cbor.encode_map(values)
    assert cbor.decode_map(data) == values
    assert cbor.encode_map(dict(reversed(values.items()))) == data
    for end in range(len(data)):
        with pytest.raises(ValueError, match=" "):
            cbor.decode_map(data[:end])
    with pytest.raises(ValueError, match="follows"):
        cbor.decode_map(data + b"\0")


@pytest.mark.parametrize(
    "text", ["a2010101 01", "bf0101ff", "a1f50101", "a141000a", "a101c001", "a101fb0000000000000000"]
)
def test_cbor_that_keys_have_no_use_for_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=" "):
        cbor.decode_map(bytes.fromhex(text))
