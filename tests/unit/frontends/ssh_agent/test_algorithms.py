"""Which keys SSH knows and how they sign, checked with SSH's own encodings and by verifying what comes out."""

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmbridge.core.key_types import KEY_TYPES, key_type
from hsmbridge.frontends.ssh_agent.algorithms import public_key_blob, requested_way, ways_of
from hsmbridge.wire.ssh_agent import DataReader

SHA256_FLAG, SHA512_FLAG = 2, 4


def spki(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey | ed448.Ed448PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_ssh_knows_ed25519_three_curves_and_rsa() -> None:
    known = {name: tuple(way.name for way in ways_of(row)) for name, row in KEY_TYPES.items() if ways_of(row)}
    both = ("rsa-sha2-256", "rsa-sha2-512")
    assert known == {
        "RSA-2048": both,
        "RSA-3072": both,
        "RSA-4096": both,
        "EC-P256": ("ecdsa-sha2-nistp256",),
        "EC-P384": ("ecdsa-sha2-nistp384",),
        "EC-P521": ("ecdsa-sha2-nistp521",),
        "Ed25519": ("ssh-ed25519",),
    }


@pytest.mark.parametrize(
    ("flags", "name"),
    [(0, None), (1, None), (2, "rsa-sha2-256"), (4, "rsa-sha2-512"), (6, "rsa-sha2-256"), (3, None), (8, None)],
)
def test_rsa_signs_as_the_flags_say_and_never_with_sha1(flags: int, name: str | None) -> None:
    way = requested_way(key_type("RSA-2048"), flags)
    assert (None if way is None else way.name) == name


def test_other_keys_have_one_way_whatever_hash_is_asked_of_rsa_keys() -> None:
    for flags in (0, SHA256_FLAG, SHA512_FLAG):
        way = requested_way(key_type("EC-P384"), flags)
        assert way is not None
        assert way.algorithm == "ECDSA-P384-SHA384"
    assert requested_way(key_type("EC-P384"), 8) is None
    assert requested_way(key_type("Ed448"), 0) is None
    assert requested_way(key_type("AES-128"), 0) is None


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_public_keys_are_those_that_ssh_keygen_makes_of_them(curve: ec.EllipticCurve, tmp_path: Path) -> None:
    key = ec.generate_private_key(curve).public_key()
    (tmp_path / "key.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    line = subprocess.run(
        ["ssh-keygen", "-i", "-m", "PKCS8", "-f", tmp_path / "key.pem"], check=True, capture_output=True, timeout=60
    ).stdout
    assert public_key_blob(spki(key)) == base64.b64decode(line.split()[1])


def test_public_keys_that_ssh_does_not_have_are_none() -> None:
    assert public_key_blob(spki(ed448.Ed448PrivateKey.generate().public_key())) is None
    assert public_key_blob(spki(ec.generate_private_key(ec.SECP256K1()).public_key())) is None
    assert public_key_blob(b"") is None
    assert public_key_blob(b"0\x03\x02\x01\x01") is None


def test_an_ecdsa_signature_goes_out_as_two_numbers() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    way = requested_way(key_type("EC-P256"), 0)
    assert way is not None
    for _ in range(20):  # numbers of every length
        der = key.sign(b"data", ec.ECDSA(SHA256()))
        outer = DataReader(way.outward(der))
        assert outer.string() == b"ecdsa-sha2-nistp256"
        inner = DataReader(outer.string())
        outer.end()
        r, s = (int.from_bytes(inner.string(), "big", signed=True) for _ in "rs")
        inner.end()
        assert (r, s) == decode_dss_signature(der)


def test_what_is_no_signature_is_not_put_out_as_one() -> None:
    way = requested_way(key_type("EC-P256"), 0)
    assert way is not None
    with pytest.raises(ValueError, match=r".*"):
        way.outward(b"no signature")


def test_other_signatures_go_out_as_they_are() -> None:
    way = requested_way(key_type("Ed25519"), 0)
    assert way is not None
    assert way.outward(b"sixty-four") == b"\0\0\0\x0bssh-ed25519\0\0\0\x0asixty-four"
