"""Records the corpus of the newest protocol version from a daemon of the lab: `python -m tests.wire_corpus.record`.

One connection, one exchange an operation at least, in an order in which they succeed; and a batch and refusals, which
have forms of their own.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsmbridge.core import messages as m
from hsmbridge.core.certificates import CertificatePurpose
from hsmbridge.core.errors import Status
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.operations import OPERATIONS
from hsmbridge.core.params import (
    X963,
    AgreeKeyParams,
    Argon2id,
    DeriveKeyParams,
    GenerateKeyParams,
    Hkdf,
    ImportKeyParams,
    KbkdfCounter,
    KdfParameters,
    Pbkdf2,
    Scrypt,
    SignatureParameters,
    Tls12Prf,
    Tls13ExpandLabel,
    UnwrapKeyParams,
    WrapKeyParams,
)
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy, Role
from hsmbridge.lab.lab import Lab
from hsmbridge.wire.codec import decode_batch_reply, decode_error, decode_reply, encode_batch, encode_request
from hsmbridge.wire.frames import Frame
from hsmbridge.wire.hello import NEWEST_VERSION, hello
from tests.raw_connection import RawConnection
from tests.unit.service.pki import DAY, NOW, Authority
from tests.wire_corpus import Corpus, Exchange, path_of
from tests.wire_corpus.layout import layout_of

Reply = TypeVar("Reply", bound=msgspec.Struct)

DATA = b"what is signed, encrypted, digested"
OTHER = "uid:4711"
KDFS: Sequence[KdfParameters] = (
    Hkdf(salt=b"salt", info=b"info"),
    Pbkdf2(salt=b"salt", iterations=1000),
    KbkdfCounter(label=b"label", context=b"context"),
    X963(shared_info=b"shared"),
    Tls12Prf(label=b"label", seed=b"seed"),
    Tls13ExpandLabel(label=b"label", context=b"context"),
    Scrypt(salt=b"salt", cost=1024),
    Argon2id(salt=b"some salt of it", iterations=1, lanes=1, memory=64),
)


class Recorder:
    """A client that keeps what goes over its connection."""

    def __init__(self, connection: RawConnection) -> None:
        self.exchanges: list[Exchange] = []
        self._connection = connection

    def ask(self, request: msgspec.Struct, kind: type[Reply]) -> Reply:
        """A request that is carried out."""
        reply = decode_reply(self._exchange(request))
        assert isinstance(reply, kind), reply
        return reply

    def refused(self, request: msgspec.Struct, status: Status) -> None:
        problem = decode_error(self._exchange(request))
        assert problem.status is status, problem

    def batch(self, requests: Sequence[msgspec.Struct]) -> None:
        data = encode_batch(len(self.exchanges), requests, 30_000)
        received, frame = self._connection.exchange(data)
        decode_batch_reply(frame)
        self.exchanges.append(Exchange(f"{OPERATIONS[frame.opcode].name} (batch)", data.hex(), received.hex()))

    def _exchange(self, request: msgspec.Struct) -> Frame:
        data = encode_request(len(self.exchanges), request, 30_000)
        received, frame = self._connection.exchange(data)
        name = OPERATIONS[frame.opcode].name
        self.exchanges.append(Exchange(name, data.hex(), received.hex()))
        return frame

    # Shortcuts

    def slot(
        self, name: str, key_type: str, permissions: P, provider: str = "software", *, empty: bool = False
    ) -> None:
        self.ask(m.SlotCreateRequest(name, key_type, (provider,), int(permissions), empty=empty), m.SlotInfo)

    def id(self, name: str, kind: ResourceKind = ResourceKind.KEY_SLOT) -> CryptoResourceId:
        return self.ask(m.ResolveRequest(name, kind), m.ResolveReply).resource

    def held(self, request: msgspec.Struct) -> CryptoResourceId:
        made = self.ask(request, m.KeyReply)
        assert made.resource is not None
        return made.resource


def the_service(to: Recorder) -> None:
    to.ask(hello("recorder"), m.HelloReply)
    to.ask(m.PingRequest(b"payload"), m.PingReply)
    to.ask(m.StatusRequest(), m.StatusReply)
    to.ask(m.ProvidersRequest(), m.ProvidersReply)
    to.ask(m.DigestRequest("SHA-256", DATA, "software"), m.DigestReply)
    to.ask(m.RandomRequest(32, "software"), m.RandomReply)


def slots(to: Recorder) -> None:
    to.ask(
        m.SlotCreateRequest(
            name="corpus-pair",
            key_type="Ed25519",
            providers=("software", "softhsm"),
            permissions=int(P.SIGN | P.VERIFY | P.GENERATE),
            algorithms=("Ed25519",),
            nonce_policy=NoncePolicy.SERVICE,
            fallback=True,
            attributes={0x102: b"id", 0x3: b"label"},
        ),
        m.SlotInfo,
    )
    to.refused(m.SlotShowRequest("corpus-none"), Status.RESOURCE_NOT_FOUND)
    to.refused(m.SlotCreateRequest("corpus-x", "EC-P256", ("software",), 1 << 20), Status.INVALID_PERMISSIONS)
    to.ask(m.SlotAttributesRequest("corpus-pair", {0x102: b"another"}), m.SlotInfo)
    to.ask(m.SlotGrantRequest("corpus-pair", OTHER, Role.USE, int(P.VERIFY)), m.SlotInfo)
    to.ask(m.SlotUngrantRequest("corpus-pair", OTHER), m.SlotInfo)
    to.ask(m.SlotRotateRequest("corpus-pair"), m.SlotInfo)
    to.ask(m.SlotShowRequest("corpus-pair", probe=True), m.SlotInfo)
    to.ask(m.SlotListRequest(), m.SlotListReply)
    to.ask(m.DoctorRequest(), m.DoctorReply)


def use_of_keys(to: Recorder) -> None:
    to.slot("corpus-mac", "HMAC-SHA256", P.SIGN | P.VERIFY)
    to.slot("corpus-aes", "AES-256", P.ENCRYPT | P.DECRYPT)
    to.slot("corpus-kem", "ML-KEM-768", P.ENCAPSULATE | P.DECAPSULATE)
    pair, mac, aes, kem = (to.id(f"corpus-{name}") for name in ("pair", "mac", "aes", "kem"))
    signed = to.ask(m.SignRequest(pair, "Ed25519", DATA), m.SignReply)
    to.ask(m.VerifyRequest(pair, "Ed25519", DATA, signed.signature), m.VerifyReply)
    to.refused(m.VerifyRequest(pair, "Ed25519", DATA, bytes(64)), Status.SIGNATURE_INVALID)
    to.ask(m.SignManyRequest(pair, "Ed25519", (DATA, b"", DATA * 2)), m.SignManyReply)
    to.batch([m.SignRequest(pair, "Ed25519", DATA), m.SignRequest(pair, "Ed448", DATA)])
    computed = to.ask(m.MacRequest(mac, "HMAC-SHA256", DATA), m.MacReply)
    to.ask(m.MacVerifyRequest(mac, "HMAC-SHA256", DATA, computed.mac), m.VerifyReply)
    sealed = to.ask(m.EncryptRequest(aes, "AES-256-GCM", DATA, b"aad"), m.EncryptReply)
    to.ask(
        m.DecryptRequest(aes, "AES-256-GCM", sealed.ciphertext, b"aad", sealed.nonce, sealed.tag, sealed.version),
        m.DecryptReply,
    )
    made = to.ask(m.EncapsulateRequest(kem, "ML-KEM-768"), m.EncapsulateReply)
    to.ask(m.DecapsulateRequest(kem, "ML-KEM-768", made.ciphertext), m.DecapsulateReply)
    to.ask(m.SlotRevokeRequest("corpus-mac", 1), m.SlotInfo)


def making_keys(to: Recorder) -> None:
    rsa = GenerateKeyParams(key_type="RSA-2048", permissions=int(P.SIGN))
    pss = to.held(m.GenerateRequest(rsa, "", "software"))
    to.ask(m.SignRequest(pss, "RSA-PSS-SHA256", DATA, SignatureParameters(salt_length=20)), m.SignReply)
    ml_dsa = to.held(m.GenerateRequest(GenerateKeyParams(key_type="ML-DSA-44", permissions=int(P.SIGN))))
    to.ask(m.SignRequest(ml_dsa, "ML-DSA-44", DATA, SignatureParameters(context=b"context")), m.SignReply)
    secret = to.held(
        m.ImportRequest(
            ImportKeyParams(key_type="SECRET-256", permissions=int(P.DERIVE), format="raw"), bytes(range(32))
        )
    )
    for kdf in KDFS:
        params = DeriveKeyParams(key_type="HMAC-SHA256", permissions=int(P.SIGN), kdf=kdf)
        to.ask(m.DeriveRequest(secret, params), m.KeyReply)
    agreeing = to.held(m.GenerateRequest(GenerateKeyParams(key_type="X25519", permissions=int(P.DERIVE))))
    peer = x25519.X25519PrivateKey.generate().public_key()
    spki = peer.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    agreed = AgreeKeyParams(key_type="AES-256", permissions=int(P.ENCRYPT | P.EXPORT), peer_public_key=spki, kdf=Hkdf())
    leaving = to.held(m.AgreeRequest(agreeing, agreed))
    to.slot("corpus-kek", "AES-256", P.WRAP | P.UNWRAP)
    kek = to.id("corpus-kek")
    wrapped = to.ask(m.WrapRequest(kek, leaving, WrapKeyParams(algorithm="AES-256-KW")), m.WrapReply)
    back = UnwrapKeyParams(key_type="AES-256", permissions=int(P.ENCRYPT), algorithm="AES-256-KW")
    to.ask(m.UnwrapRequest(kek, wrapped.material, back), m.KeyReply)
    to.slot("corpus-kept", "AES-256", P.ENCRYPT, empty=True)
    to.ask(m.PersistRequest(leaving, "corpus-kept"), m.KeyReply)
    to.ask(m.ReleaseRequest(leaving), m.Empty)
    to.refused(m.ReleaseRequest(leaving), Status.RESOURCE_NOT_FOUND)


def keys_of_a_tpm(to: Recorder) -> None:
    to.slot("corpus-tpm", "EC-P256", P.SIGN | P.EXPORT, "tpm")
    key = to.id("corpus-tpm")
    to.ask(m.SlotAttestRequest(key, b"a nonce of 16 by"), m.SlotAttestReply)
    to.ask(m.SlotAttestRequest(key, b"a nonce of 16 by", pcrs=(0, 7)), m.SlotAttestReply)
    exported = to.ask(m.SlotExportRequest(key, "tss2"), m.SlotExportReply)
    to.ask(m.SlotDestroyRequest("corpus-tpm"), m.Empty)
    to.ask(m.SlotAdoptRequest("corpus-tpm", "tpm", material=exported.material), m.SlotAdoptReply)


def certificates(to: Recorder) -> None:
    root = Authority("Root", ends=NOW + 36_500 * DAY)
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    leaf = root.issue(spki, begins=NOW - DAY, ends=NOW + 36_500 * DAY)
    material = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    to.slot("corpus-host", "EC-P256", P.SIGN, empty=True)
    known = ImportKeyParams(key_type="EC-P256", permissions=int(P.SIGN), format="pkcs8")
    to.ask(m.ImportRequest(known, material, "corpus-host"), m.KeyReply)
    to.ask(m.CertImportRequest("corpus-cert", (leaf, root.der), "corpus-host"), m.CertInfo)
    loaded = to.ask(m.CertLoadRequest((leaf,)), m.CertLoadReply)
    to.ask(m.CertShowRequest("corpus-cert"), m.CertInfo)
    to.ask(m.CertShowRequest(loaded.resource), m.CertInfo)
    to.ask(m.CertListRequest(), m.CertListReply)
    to.ask(m.CertBindRequest("corpus-cert", ""), m.CertInfo)
    to.ask(m.CertAccessRequest("corpus-cert", ResourceKind.CERT_SLOT, OTHER, Role.USE), m.CertAccessReply)
    to.ask(m.CertAccessRequest("corpus-cert", ResourceKind.CERT_SLOT, OTHER, None), m.CertAccessReply)
    to.ask(m.TrustCreateRequest("corpus-trust"), m.TrustInfo)
    added = to.ask(m.TrustAddRequest("corpus-trust", (root.der, Authority("Other").der)), m.TrustInfo)
    other = added.anchors[1].fingerprint
    to.ask(m.TrustRemoveRequest("corpus-trust", (other,)), m.TrustInfo)
    to.ask(m.TrustShowRequest("corpus-trust"), m.TrustInfo)
    to.ask(m.TrustListRequest(), m.TrustListReply)
    to.ask(m.CrlImportRequest("corpus-crl", root.crl(4711)), m.CrlInfo)
    to.ask(m.CrlShowRequest("corpus-crl"), m.CrlInfo)
    to.ask(m.CrlListRequest(), m.CrlListReply)
    to.ask(
        m.CertVerifyRequest(
            certificate=loaded.resource,
            trust_store="corpus-trust",
            purpose=CertificatePurpose.SERVER,
            subject="host.example",
            time=NOW.timestamp(),
            crls=("corpus-crl",),
        ),
        m.CertVerifyReply,
    )
    for name, kind in (
        ("corpus-cert", ResourceKind.CERT_SLOT),
        ("corpus-trust", ResourceKind.VERIFICATION_TRUST_STORE),
        ("corpus-crl", ResourceKind.CRL),
    ):
        to.ask(m.CertRemoveRequest(name, kind), m.Empty)


def contexts(to: Recorder) -> None:
    pair, aes = to.id("corpus-pair"), to.id("corpus-aes")
    sealing = to.ask(m.ContextEncryptRequest(aes, "AES-256-GCM", m.ContextKind.AEAD), m.ContextReply).context
    begun = to.ask(m.ContextInitRequest(sealing, m.ContextStart(aad=b"aad")), m.ContextReply)
    piece = to.ask(m.ContextUpdateRequest(sealing, DATA), m.ContextDataReply)
    ended = to.ask(m.ContextFinalizeRequest(sealing, b""), m.ContextFinalReply)
    to.ask(m.ContextReadRequest(sealing), m.ContextDataReply)
    to.ask(m.ContextResetRequest(sealing, m.ContextStart()), m.ContextReply)
    to.ask(m.ContextCloseRequest(sealing), m.Empty)
    start = m.ContextStart(begun.nonce, b"aad")
    opening = m.ContextDecryptRequest(aes, "AES-256-GCM", m.ContextKind.AEAD, 1, start)
    number = to.ask(opening, m.ContextReply).context
    to.ask(m.ContextFinalizeRequest(number, piece.data + ended.data, ended.tag), m.ContextFinalReply)
    signing = m.ContextSignRequest(pair, "Ed25519", m.ContextKind.SIGN, start=m.ContextStart())
    number = to.ask(signing, m.ContextReply).context
    signed = to.ask(m.ContextFinalizeRequest(number, DATA), m.ContextFinalReply)
    verifying = m.ContextVerifyRequest(pair, "Ed25519", m.ContextKind.VERIFY, version=2, start=m.ContextStart())
    number = to.ask(verifying, m.ContextReply).context
    to.ask(m.ContextFinalizeRequest(number, DATA, signed.data), m.ContextFinalReply)
    digesting = m.ContextDigestRequest("SHA-256", "software", m.ContextStart())
    number = to.ask(digesting, m.ContextReply).context
    to.ask(m.ContextFinalizeRequest(number, DATA), m.ContextFinalReply)


def shared_memory(to: Recorder) -> None:
    aes = to.id("corpus-aes")
    to.slot("corpus-hmac", "HMAC-SHA256", P.SIGN)
    mac = to.id("corpus-hmac")
    memory = to.ask(m.ShareMemoryRequest(1 << 16), m.ShareMemoryReply)
    part = m.SharedRange(memory.buffer, 4096, 1000)
    to.ask(m.SharedDigestRequest("SHA-256", part, "software"), m.DigestReply)
    to.ask(m.SharedMacRequest(mac, "HMAC-SHA256", part), m.MacReply)
    sealed = to.ask(m.SharedEncryptRequest(aes, "AES-256-GCM", part, part, b"aad"), m.SharedEncryptReply)
    opened = m.SharedDecryptRequest(aes, "AES-256-GCM", part, part, b"aad", sealed.nonce, sealed.tag, sealed.version)
    to.ask(opened, m.SharedDecryptReply)
    many = m.SharedEncryptManyRequest(
        aes, "AES-256-GCM", m.SharedRange(memory.buffer, 0, 4096), (0, 1024), (1000, 500), (b"one", b"two")
    )
    nonce = to.ask(many, m.SharedEncryptManyReply).nonces[0]
    with_its_tag = m.SharedRange(memory.buffer, 0, 1016)
    to.ask(m.SharedDecryptRequest(aes, "AES-256-GCM", with_its_tag, part, b"one", nonce), m.SharedDecryptReply)


def pins(to: Recorder) -> None:
    to.ask(m.PinListRequest(), m.PinListReply)
    to.ask(m.PinResetRequest(OTHER, "software"), m.PinResetReply)


def the_end(to: Recorder) -> None:
    for name in ("pair", "mac", "aes", "kem", "kek", "kept", "host", "hmac", "tpm"):
        to.ask(m.SlotDestroyRequest(f"corpus-{name}"), m.Empty)


CHAPTERS = (
    *(the_service, slots, use_of_keys, making_keys, keys_of_a_tpm, certificates, contexts, shared_memory),
    *(pins, the_end),
)


def record(path: Path) -> list[Exchange]:
    """All exchanges with the daemon at a socket."""
    with RawConnection(path) as connection:
        recorder = Recorder(connection)
        for chapter in CHAPTERS:
            chapter(recorder)
    return recorder.exchanges


def main() -> None:
    """Write the corpus of the newest version, which must not have one."""
    target = path_of(NEWEST_VERSION)
    if target.exists():
        sys.exit(f"{target.name} is there. Remove it if no release has spoken version {NEWEST_VERSION} yet.")
    with Lab.start() as lab:
        corpus = Corpus(NEWEST_VERSION, layout_of(), record(lab.socket))
    target.write_bytes(msgspec.json.format(msgspec.json.encode(corpus), indent=1) + b"\n")


if __name__ == "__main__":
    main()
