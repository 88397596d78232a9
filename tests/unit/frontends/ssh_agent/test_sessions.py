"""session-bind@openssh.com: what a host signed is remembered, and a forwarded connection stays one."""

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsmbridge.frontends.ssh_agent.sessions import Sessions
from hsmbridge.wire.ssh_agent import SessionBinding, mpint, string

ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
P256, P384, P521 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()))
Key = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def blob(key: Key) -> bytes:
    return base64.b64decode(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])


def ecdsa(key: ec.EllipticCurvePrivateKey, hash_: SHA256 | SHA384 | SHA512) -> Callable[[bytes], bytes]:
    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hash_)))
        return mpint(r) + mpint(s)

    return sign


def signed(name: bytes, sign: Callable[[bytes], bytes], session: bytes) -> bytes:
    return string(name) + string(sign(session))


def binding(session: bytes, *, forwarding: bool = False, host_key: bytes | None = None) -> SessionBinding:
    signature = signed(b"ssh-ed25519", ED25519.sign, session)
    return SessionBinding(host_key or blob(ED25519), session, signature, forwarding)


HOSTS: list[tuple[Key, bytes, Callable[[bytes], bytes]]] = [
    (ED25519, b"ssh-ed25519", ED25519.sign),
    (RSA, b"rsa-sha2-256", lambda data: RSA.sign(data, padding.PKCS1v15(), SHA256())),
    (RSA, b"rsa-sha2-512", lambda data: RSA.sign(data, padding.PKCS1v15(), SHA512())),
    (P256, b"ecdsa-sha2-nistp256", ecdsa(P256, SHA256())),
    (P384, b"ecdsa-sha2-nistp384", ecdsa(P384, SHA384())),
    (P521, b"ecdsa-sha2-nistp521", ecdsa(P521, SHA512())),
]


@pytest.mark.parametrize(("key", "name", "sign"), HOSTS)
def test_what_the_host_signed_is_accepted_once(key: Key, name: bytes, sign: Callable[[bytes], bytes]) -> None:
    one = SessionBinding(blob(key), b"session", signed(name, sign, b"session"), True)
    sessions = Sessions()
    assert sessions.bind(one)
    assert not sessions.bind(one)


@pytest.mark.parametrize(("key", "name", "sign"), HOSTS)
def test_another_session_is_not_what_the_host_signed(key: Key, name: bytes, sign: Callable[[bytes], bytes]) -> None:
    assert not Sessions().bind(SessionBinding(blob(key), b"another", signed(name, sign, b"session"), False))


def test_a_host_key_that_was_certified_is_accepted(tmp_path: Path) -> None:
    for name, key in (("ca", ED25519), ("host", P256)):
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_bytes(private)
        (tmp_path / f"{name}.pub").write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    subprocess.run(
        ["ssh-keygen", "-q", "-s", "ca", "-I", "host", "-h", "-n", "localhost", "host.pub"],
        cwd=tmp_path,
        check=True,
        timeout=60,
    )
    certificate = base64.b64decode((tmp_path / "host-cert.pub").read_text().split()[1])
    signature = signed(b"ecdsa-sha2-nistp256", ecdsa(P256, SHA256()), b"session")
    assert Sessions().bind(SessionBinding(certificate, b"session", signature, False))


def test_sha1_and_a_name_that_is_another_kinds_are_refused() -> None:
    sha1 = signed(b"ssh-rsa", lambda data: RSA.sign(data, padding.PKCS1v15(), SHA1()), b"session")
    assert not Sessions().bind(SessionBinding(blob(RSA), b"session", sha1, False))
    other = signed(b"ecdsa-sha2-nistp384", ecdsa(P256, SHA384()), b"session")
    assert not Sessions().bind(SessionBinding(blob(P256), b"session", other, False))


def test_after_its_own_session_a_connection_is_bound_to_no_other() -> None:
    sessions = Sessions()
    assert sessions.bind(binding(b"own"))
    assert not sessions.bind(binding(b"another"))
    assert not sessions.forwarded


def test_a_forwarded_connection_stays_one_through_a_limited_number_of_machines() -> None:
    sessions = Sessions()
    for number in range(16):
        assert sessions.bind(binding(bytes([number]), forwarding=True))
    assert not sessions.bind(binding(b"one more", forwarding=True))
    assert sessions.forwarded
    sessions = Sessions()
    assert sessions.bind(binding(b"first", forwarding=True))
    assert sessions.bind(binding(b"own"))
    assert sessions.forwarded


def test_who_says_that_it_is_forwarded_is_believed_without_a_signature() -> None:
    sessions = Sessions()
    assert not sessions.bind(binding(b"session", forwarding=True, host_key=b"of a kind that nobody knows"))
    assert sessions.forwarded


def test_session_ids_have_a_length() -> None:
    assert not Sessions().bind(binding(b""))
    assert not Sessions().bind(binding(bytes(129)))


def test_a_host_key_on_a_compressed_point_is_not_accepted() -> None:
    point = P256.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    host_key = string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(point)
    signature = signed(b"ecdsa-sha2-nistp256", ecdsa(P256, SHA256()), b"session")
    assert not Sessions().bind(SessionBinding(host_key, b"session", signature, False))
