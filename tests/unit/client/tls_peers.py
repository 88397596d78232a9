"""Two ends of a TLS connection in one thread, and self-signed certificates for them."""

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from hsmbridge.client.tls import SlotKeyInUse, load_slot_key

SERVER, CLIENT = "localhost", "client"
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = {TLS12: "TLSv1.2", TLS13: "TLSv1.3"}

SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def certificate(
    key: SigningKey,
    name: str,
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | None = None,
    issuer: x509.Certificate | None = None,
) -> x509.Certificate:
    """A certificate that `key` signs: of its own public key or of another one, issued by itself or by another."""
    certified = public_key or key.public_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(certified)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(certified), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def pem(certificates: Sequence[x509.Certificate]) -> str:
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)


def client_context(server: x509.Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem([server]))
    return context


def server_context(client: x509.Certificate | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    if client is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=pem([client]))
    return context


class Peers:
    """A server and a client, each with a key of its own, that demand each other's certificate."""

    def __init__(self, server_key: SigningKey, client_key: SigningKey) -> None:
        server, client = certificate(server_key, SERVER), certificate(client_key, CLIENT)
        self.server, self.client = server_context(client), client_context(server)
        self.server_use: SlotKeyInUse = load_slot_key(self.server, server_key, [server])
        self.client_use: SlotKeyInUse = load_slot_key(self.client, client_key, [client])

    def handshake(self, version: ssl.TLSVersion = TLS13) -> str:
        """The protocol version that a connection has, after octets went both ways. Raises ssl.SSLError."""
        return handshake(self.server, self.client, version)


def limit(context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    context.minimum_version = TLS12
    context.maximum_version = version
    context.minimum_version = version


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, version: ssl.TLSVersion = TLS13) -> str:
    limit(client, version)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    ours = client.wrap_bio(to_client, to_server, server_hostname=SERVER)
    waiting = [ours.do_handshake, theirs.do_handshake]
    for _ in range(10):
        waiting = [step for step in waiting if not _done(step)]
    assert not waiting
    ours.write(b"ping")
    assert theirs.read(4) == b"ping"
    theirs.write(b"pong")
    assert ours.read(4) == b"pong"
    assert theirs.getpeercert() or not server.verify_mode
    return ours.version() or ""


def _done(step: object) -> bool:
    assert callable(step)
    try:
        step()
    except ssl.SSLWantReadError:
        return False
    return True
