"""The messages of the SSH agent protocol, in pieces, the bindings of sessions in them, and certificates of users."""

import base64
import struct

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
)

from hsmbridge.core.errors import Status, WireError
from hsmbridge.frontends.ssh_agent import certificates
from hsmbridge.frontends.ssh_agent.certificates import UserCertificate
from hsmbridge.frontends.ssh_agent.sessions import Sessions
from hsmbridge.wire.ssh_agent import (
    LENGTH_SIZE,
    MESSAGE_MAX,
    MessageReader,
    Request,
    decode_request,
    decode_session_binding,
    string,
)
from tests.fuzz.pieces import pieces, uncut
from tests.fuzz.target import Reader, Target

SESSION = b"session id of thirty-two octets."


def read_stream(data: bytes) -> list[Request]:
    """Messages in pieces, each decoded; what is kept is bounded."""
    reader = MessageReader()
    found = []
    for piece in pieces(data):
        for message in reader.feed(piece):
            assert 1 <= len(message) <= MESSAGE_MAX
            try:
                found.append(decode_request(message))
            except WireError:
                continue
        assert len(reader._buffer) < LENGTH_SIZE + MESSAGE_MAX
    return found


def read_binding(data: bytes) -> bool:
    """The contents of session-bind@openssh.com, believed or not; nothing is raised after it could be read."""
    binding = decode_session_binding(data)
    sessions = Sessions()
    bound = sessions.bind(binding)
    assert sessions.forwarded == binding.forwarding
    assert not bound or not sessions.bind(binding)
    return bound


def read_certificate(data: bytes) -> UserCertificate:
    """A certificate that a slot keeps."""
    try:
        return certificates.read_certificate(data)
    except ValueError as problem:
        raise WireError(Status.MALFORMED_FRAME, str(problem)) from problem


def _certificates() -> list[bytes]:
    found = []
    for authority in (
        ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
        ec.derive_private_key(7, ec.SECP256R1()),
    ):
        builder = SSHCertificateBuilder().public_key(authority.public_key()).type(SSHCertificateType.USER)
        builder = builder.key_id(b"me").serial(1).valid_principals([b"me"]).valid_after(0).valid_before(9)
        builder = builder.add_critical_option(b"force-command", b"true").add_extension(b"permit-pty", b"")
        found.append(base64.b64decode(builder.sign(authority).public_bytes().split(b" ")[1]))
    return found


def _bindings() -> list[bytes]:
    found = []
    for key in (
        ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
        ec.derive_private_key(7, ec.SECP256R1()),
    ):
        blob = _blob(key.public_key())
        if isinstance(key, ed25519.Ed25519PrivateKey):
            signature = string(b"ssh-ed25519") + string(key.sign(SESSION))
        else:
            signature = string(b"ecdsa-sha2-nistp256") + string(key.sign(SESSION, ec.ECDSA(SHA256())))
        found.append(string(blob) + string(SESSION) + string(signature) + b"\0")
    modulus = rsa.RSAPublicNumbers(65537, (1 << 2047) + 9).public_key()
    found.append(
        string(_blob(modulus)) + string(SESSION) + string(string(b"rsa-sha2-256") + string(bytes(256))) + b"\1"
    )
    return found


def _blob(key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return base64.b64decode(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])


_BINDINGS = _bindings()
_MESSAGES = [
    b"\x0b",
    b"\x0d" + string(b"key") + string(b"data") + struct.pack(">I", 2),
    b"\x1b" + string(b"query"),
    *(b"\x1b" + string(b"session-bind@openssh.com") + one for one in _BINDINGS),
    b"\x13",
]

TARGET = Target(
    (
        Reader(
            "stream", read_stream, [uncut(string(one)) for one in _MESSAGES] + [uncut(b"".join(map(string, _MESSAGES)))]
        ),
        Reader("binding", read_binding, _BINDINGS),
        Reader("certificate", read_certificate, _certificates()),
    )
)
