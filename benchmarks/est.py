"""EST with keys in slots: enrolments a second, and what a TLS handshake costs beside one with a key in a file.

Client and server of an enrolment are threads of one process, with a daemon between them and their keys: the CA signs
with a slot's key, the server shakes hands with one, the client has one certified and authenticates with another.
"""

import logging
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from benchmarks.core import Choice
from benchmarks.direct_softhsm import direct_softhsm_signers
from benchmarks.measure import Contender, Result, compare, repeating
from est.ca.authority import Authority, new_root
from est.ca.profile import Profile
from est.ca.record import Record
from est.client import ClientConfiguration, EstAddress, EstClient
from est.csr.demands import Demands
from est.csr.request import Wishes, plan, sign_request
from est.key_places import SlotKey
from est.keys import Key, SoftwareKey
from est.server.application import EstApplication
from est.server.authentication import Authenticator
from est.server.listener import Listener, server_context
from est.server.service import EstService, ServiceSettings
from est.tls.connection import ClientIdentity, TlsLimits, client_context
from est.trust.anchors import TrustAnchors
from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions
from hsmbridge.lab.rigs import SoftHsmToken

SUITE = "est"
TURNS = 8
_TURN = 0.5
_HOST = "localhost"
_MESSAGE = bytes(130)
"""As long as what a TLS 1.3 handshake signs."""
ENROLMENTS = 50
"""A second, at least, with every key in software."""
ALLOWED = 0.001
"""Seconds that a handshake with a slot's key may take beside a file's handshake and the signature itself."""
_USE = KeyOperationPermission.SIGN | KeyOperationPermission.VERIFY | KeyOperationPermission.GENERATE

_NUMBERS = count()

NewKey = Callable[[str], Key]
"""Makes a P-256 key of this name."""


def run(only: str, turns: int) -> Iterator[Result]:
    """Every case whose name contains `only`, with so many turns of each side."""
    choice = Choice(only, turns)
    # The server tells every request.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with ExitStack() as opened:
        stack = opened.enter_context(opened.enter_context(Lab.start(LabOptions(tpm=False))).stack())
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="hb", dir="/tmp")))
        direct = repeating(direct_softhsm_signers(SoftHsmToken.make(folder / "token", "direct"), _MESSAGE, 1)[0])
        for name, provider, signatures in (("software", "software", None), ("SoftHSM", "softhsm", direct)):
            in_slots = _slot_keys(stack, provider)
            yield from _enrolments(choice, name, in_slots)
            yield from _handshakes(choice, name, in_slots, signatures or repeating(_signature_in_software()))


def _file_key(_: str) -> Key:
    return SoftwareKey(ec.generate_private_key(ec.SECP256R1()))


def _slot_keys(stack: CryptoStack, provider: str) -> NewKey:
    def new_key(name: str) -> Key:
        slot = f"{provider}-{name}-{next(_NUMBERS)}"
        stack.create_slot(slot, "EC-P256", _USE, providers=[provider])
        return SlotKey(stack, slot)

    return new_key


def _signature_in_software() -> Callable[[], object]:
    key, scheme = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(hashes.SHA256())
    return lambda: key.sign(_MESSAGE, scheme)


# Enrolments


def _enrolments(choice: Choice, name: str, in_slots: NewKey) -> Iterator[Result]:
    for case, kept in ((f"enrolment, keys in {name}", True), (f"enrolment and handshake, keys in {name}", False)):
        if case in choice:
            with _site(in_slots, kept=kept) as ours, _site(_file_key, kept=kept) as files:
                yield compare(
                    SUITE,
                    case,
                    ours,
                    files,
                    against_name="files",
                    least=ENROLMENTS if name == "software" else None,
                    unit="enrolments/s",
                    turns=choice.turns,
                    turn=_TURN,
                )


@contextmanager
def _site(new_key: NewKey, *, kept: bool) -> Iterator[Contender]:
    """A CA with its server, and a client that enrols again and again: on one connection, or on a new one each time."""
    issuer = new_root(new_key("ca"), "Root")
    authority = Authority(issuer, Record(":memory:"))
    service = EstService(authority, Authenticator({}, ()), ServiceSettings())
    server, device, enrolled = new_key("server"), new_key("device"), new_key("enrolled")
    chain = (_certificate(authority, server, _HOST, Profile("server", usages=("serverAuth",))),)
    identity = ClientIdentity(device, (_certificate(authority, device, "device", Profile()),))
    wishes = _wishes("enrolled")
    with Listener(
        EstApplication({"": service}).handle, server_context(server, chain, [issuer.certificate])
    ) as listener:
        anchors = TrustAnchors((issuer.certificate,), ())
        known = ClientConfiguration(EstAddress(_HOST, listener.port), anchors, identity=identity)

        def enrol_anew() -> None:
            with EstClient(known) as client:
                client.enroll(enrolled, wishes, Demands())

        with EstClient(known) as client:
            yield repeating((lambda: client.enroll(enrolled, wishes, Demands())) if kept else enrol_anew)


def _wishes(name: str) -> Wishes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return Wishes.of(subject, [x509.DNSName(name)])


def _certificate(authority: Authority, key: Key, name: str, profile: Profile) -> x509.Certificate:
    request = sign_request(plan(_wishes(name), Demands(), key.signer.public_key()), key)
    return authority.issue(x509.load_der_x509_csr(request), profile, "benchmark")


# Handshakes


def _handshakes(choice: Choice, name: str, in_slots: NewKey, signatures: Contender) -> Iterator[Result]:
    case = f"TLS handshake, key in {name}"
    if case in choice:
        authority = Authority(new_root(_file_key(""), "Root"), Record(":memory:"))
        slot, file = (repeating(_handshake(authority, new_key("tls"))) for new_key in (in_slots, _file_key))

        def allowed(seconds: float) -> float:
            signature = 1 / signatures(seconds / 4)
            return 1 / (1 / file(seconds) + signature + ALLOWED)

        yield compare(
            SUITE,
            case,
            slot,
            allowed,
            against_name="file_and_signature_and_1_ms",
            target=1.0,
            unit="handshakes/s",
            turns=choice.turns,
            turn=_TURN,
        )


def _handshake(authority: Authority, key: Key) -> Callable[[], None]:
    """A whole TLS 1.3 handshake of a server that has this key, both ends in memory and in this thread."""
    root = authority.issuer.certificate
    chain = (_certificate(authority, key, _HOST, Profile("server", usages=("serverAuth",))),)
    server, client = server_context(key, chain, ()), client_context(TlsLimits())
    client.load_verify_locations(cadata=root.public_bytes(Encoding.PEM).decode("ascii"))

    def shake_hands() -> None:
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [
            client.wrap_bio(back, there, server_hostname=_HOST),
            server.wrap_bio(there, back, server_side=True),
        ]
        while ends:
            ends = [end for end in ends if not _ended(end)]

    return shake_hands


def _ended(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
