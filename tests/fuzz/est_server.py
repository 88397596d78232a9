"""The EST server behind its socket: requests of a known user, and what stands behind a signature that is good.

Whoever asks for a certificate has a key, and can sign anything with it. So two readers sign what they are given.
"""

import base64
import logging

import structlog
from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519

from est import oids
from est.asn1 import cmc
from est.asn1.csrattrs import Attribute, dump_attribute
from est.asn1.der import octets
from est.asn1.template import ExtensionPart, extension_attribute
from est.ca.authority import Authority, new_root
from est.ca.profile import Profile
from est.ca.record import Issued, Record
from est.cms.enveloped import SharedKey
from est.cms.signed import dump_signed
from est.csr.demands import Demands
from est.csr.request import Wishes, plan, sign_request
from est.http import media_type
from est.http.paths import WELL_KNOWN
from est.keys import SoftwareKey, spki
from est.server.application import EstApplication
from est.server.authentication import Authenticator
from est.server.messages import Peer, ServerRequest, ServerResponse
from est.server.service import EstService, ServiceSettings
from tests.fuzz.target import Reader, Target

# Every refusal is logged.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

OPERATIONS = ("simpleenroll", "simplereenroll", "serverkeygen", "fullcmc")
KEY = SoftwareKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
BASIC = f"Basic {base64.b64encode(b'device:secret').decode()}"
ALGORITHM = bytes.fromhex("300506032b6570")


class _Forgetful(Record):
    """A record that takes every row and keeps none of certificates."""

    def add(self, issued: Issued) -> None:
        super().add(issued)
        with self._writing() as database:
            database.execute("DELETE FROM certificate")


def _application() -> tuple[EstApplication, Peer]:
    authority = Authority(
        new_root(SoftwareKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))), "Root"), _Forgetful(":memory:")
    )
    settings = ServiceSettings(Profile(), shared_keys=(SharedKey(b"name", bytes(32)),))
    application = EstApplication({"": EstService(authority, Authenticator({"device": "secret"}), settings)})
    own = x509.load_der_x509_csr(_requests()[0])
    return application, Peer((authority.issue(own, Profile(), "fuzz"),))


def _ask(operation: str, body: bytes, peer: Peer) -> ServerResponse:
    wanted = media_type.PKCS7 if operation == "fullcmc" else media_type.PKCS10
    headers = {"content-type": wanted, "authorization": BASIC}
    response = APPLICATION.handle(ServerRequest("POST", f"{WELL_KNOWN}/{operation}", headers, body), peer)
    assert response.status in {200, 400, 403, 404, 413, 422}, response
    return response


def ask(data: bytes) -> ServerResponse:
    """A body in DER behind the place of its operation."""
    return _ask(OPERATIONS[(data[0] if data else 0) % 4], base64.b64encode(data[1:]), Peer())


def ask_signed(data: bytes) -> ServerResponse:
    """Operation, length of the name, name and attributes of a PKCS#10 request, which is signed here."""
    operation, size = OPERATIONS[(data[0] if data else 0) % 3], int.from_bytes(data[1:3])
    subject, attributes = data[3 : 3 + size], data[3 + size :]
    info = _tagged(0x30, b"\x02\x01\x00" + subject + spki(KEY.signer.public_key()) + attributes)
    signature = KEY.signer.sign(info)  # type: ignore[call-arg]  # an Ed25519 key
    csr = _tagged(0x30, info + ALGORITHM + _tagged(0x03, b"\0" + signature))
    return _ask(operation, base64.b64encode(csr), PEER if operation == "simplereenroll" else Peer())


def ask_signed_cmc(data: bytes) -> ServerResponse:
    """A PKIData, which is signed here with the peer's own certificate."""
    message = dump_signed(oids.CCT_PKI_DATA, data, KEY, PEER.certificates[0])
    return _ask("fullcmc", base64.b64encode(message), PEER)


def _tagged(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes(2)
    return bytes([tag, 0x82]) + length + content


def _wishes() -> Wishes:
    name = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, "device"), x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "CH")]
    )
    return Wishes.of(name, [x509.DNSName("device.example"), x509.DirectoryName(name)])


def _requests() -> list[bytes]:
    wishes = _wishes()
    shared = Attribute(oids.DECRYPT_KEY_ID, (octets(b"name"),))
    planned = plan(wishes, Demands(), KEY.signer.public_key())
    return [sign_request(planned, KEY), sign_request(planned.with_attributes(shared), KEY)]


def _parts() -> list[bytes]:
    wishes = _wishes()
    usage = ExtensionPart("2.5.29.15", True, b"\x03\x02\x07\x80")
    extensions = dump_attribute(extension_attribute((*wishes.extensions, usage)))
    password = dump_attribute(Attribute(oids.CHALLENGE_PASSWORD, (bytes(core.UTF8String("link").dump()),)))
    shared = dump_attribute(Attribute(oids.DECRYPT_KEY_ID, (octets(b"name"),)))
    found = []
    for place, attributes in ((0, extensions), (0, password), (1, extensions), (2, shared + extensions)):
        size = len(wishes.subject).to_bytes(2)
        found.append(bytes([place]) + size + wishes.subject + _tagged(0xA0, attributes))
    return found


def _data() -> list[bytes]:
    controls = (
        cmc.Control(1, oids.CMC_SENDER_NONCE, (octets(b"n"),)),
        cmc.Control(3, oids.CMC_TRANSACTION_ID, (octets(b"t"),)),
    )
    query = (cmc.Control(1, oids.CMC_QUERY_PENDING, (octets(b"token"),)),)
    return [
        cmc.dump_request(cmc.CmcRequest(controls, ((2, _requests()[0]),))),
        cmc.dump_request(cmc.CmcRequest(query, ())),
    ]


APPLICATION, PEER = _application()
_BARE = dump_signed(oids.CCT_PKI_DATA, _data()[0], KEY)

TARGET = Target(
    (
        Reader("request", ask, [*(bytes([place]) + one for one in _requests() for place in (0, 2)), b"\3" + _BARE]),
        Reader("signed request", ask_signed, _parts()),
        Reader("signed CMC", ask_signed_cmc, _data()),
    )
)
