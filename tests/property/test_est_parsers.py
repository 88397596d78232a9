"""Whatever a peer sends, est answers with its value or with an exception of its own, and with bounded memory."""

import base64
import functools
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from hypothesis import given, strategies

from est import oids
from est.asn1 import cmc, cmc_pop, der
from est.asn1.csrattrs import Attribute, CsrAttrs, dump_csrattrs, parse_csrattrs
from est.asn1.template import ExtensionPart, KeyPart, NamePart, Template, dump_template, parse_template
from est.ca.authority import new_root
from est.cms.certs_only import UNREADABLE, dump_certs_only, parse_certs_only
from est.cms.enveloped import Opener, Recipient, SharedKey, open_sealed, seal
from est.cms.possession import answer_challenge, make_challenge
from est.cms.receiver import software_receiver
from est.cms.signed import dump_signed, parse_signed
from est.csr.capabilities import dump_capabilities, oaep_digest
from est.csr.demands import Demands, demands_of
from est.csr.linking import challenge, same
from est.csr.reading import attributes_of
from est.csr.request import Wishes, plan, sign_request
from est.http.authorization import parse_challenges
from est.http.media_type import parse_media_type
from est.http.multipart import dump_multipart, parse_multipart
from est.http.payload import decode, encode
from est.http.retry_after import parse_retry_after
from est.keys import SoftwareKey
from hsmbridge.core.errors import HsmBridgeError

OIDS = strategies.sampled_from([oids.CHALLENGE_PASSWORD, oids.EC_PUBLIC_KEY, "2.5.29.17", "1.3.6.1.4.1.99999.1"])
VALUES = strategies.sampled_from([der.oid(oids.P256), der.integer(2048), der.octets(b"x")])
ATTRIBUTES = strategies.builds(
    Attribute, OIDS, strategies.lists(VALUES, max_size=2, unique=True).map(lambda v: tuple(sorted(v)))
)


RECEIVERS: dict[str, PrivateKeyTypes] = {
    "agreement": x25519.X25519PrivateKey.generate(),
    "decryption": rsa.generate_private_key(65537, 2048),
    "encapsulation": mlkem.MLKEM768PrivateKey.generate(),
}


@functools.cache
def messages() -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    """A good message of each kind, and what reads it."""
    key = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
    root = new_root(key, "Root")
    shared = SharedKey(b"name", bytes(32))
    template = Template(
        subject=((NamePart("2.5.4.3", None),),),
        key=KeyPart(oids.RSA_ENCRYPTION, bits=2048),
        extensions=(ExtensionPart("2.5.29.17"), ExtensionPart("2.5.29.15", True, b"\x03\x02\x07\x80")),
    )
    listed = dump_csrattrs(
        [oids.CHALLENGE_PASSWORD, Attribute(oids.CERTIFICATION_REQUEST_INFO_TEMPLATE, (dump_template(template),))]
    )
    csr = sign_request(plan(Wishes.of(root.certificate.subject), Demands(), key.signer.public_key()), key, "secret")
    controls = (cmc.Control(1, oids.CMC_SENDER_NONCE, (der.octets(b"n"),)),)
    status = cmc.dump_status(cmc.StatusInfo(2, (1,), "no", 9))
    request = cmc.dump_tagged_request(1, csr)
    receiver = software_receiver(RECEIVERS["agreement"])
    challenge = make_challenge(request, Recipient(receiver.public_key)).encrypted
    proof = answer_challenge(challenge, 1, request, receiver.opener)
    return {
        "csrattrs": (listed, lambda one: demands_of(parse_csrattrs(one))),
        "template": (dump_template(template), parse_template),
        "certs-only": (dump_certs_only([root.certificate]), parse_certs_only),
        "signed": (dump_signed(oids.CCT_PKI_DATA, csr, key, root.certificate), parse_signed),
        "enveloped": (seal(oids.DATA, b"content", shared), lambda one: open_sealed(one, Opener(shared=(shared,)))),
        "CMC request": (cmc.dump_request(cmc.CmcRequest(controls, ((2, csr),))), cmc.parse_request),
        "CMC response": (cmc.dump_response((cmc.Control(1, oids.CMC_STATUS_INFO_V2, (status,)),)), cmc.parse_response),
        "CMC status": (status, cmc.parse_status),
        "request": (csr, _read_request),
        "challenge": (cmc_pop.dump_encrypted_pop(challenge), cmc_pop.parse_encrypted_pop),
        "proof": (cmc_pop.dump_decrypted_pop(proof), cmc_pop.parse_decrypted_pop),
        "capabilities": (dump_capabilities(("sha1", "sha256")), oaep_digest),
        **{f"for {kind}": _sealed_for(private) for kind, private in RECEIVERS.items()},
    }


def _sealed_for(private: PrivateKeyTypes) -> tuple[bytes, Callable[[bytes], object]]:
    receiver = software_receiver(private)
    sealed = seal(oids.DATA, b"content", Recipient(receiver.public_key))
    return sealed, lambda one: open_sealed(one, receiver.opener)


def _read_request(one: bytes) -> object:
    try:
        request = x509.load_der_x509_csr(one)
    except UNREADABLE:
        return None
    return attributes_of(request)


KINDS = [
    "csrattrs",
    "template",
    "certs-only",
    "signed",
    "enveloped",
    "CMC request",
    "CMC response",
    "CMC status",
    "request",
    "challenge",
    "proof",
    "capabilities",
    "for agreement",
    "for decryption",
    "for encapsulation",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_reads_itself(kind: str) -> None:
    good, read = messages()[kind]
    read(good)


# pyca still reads a serial number that RFC 5280 forbids, and says so.
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("kind", KINDS)
@given(data=strategies.data())
def test_a_changed_message_is_read_or_refused(kind: str, data: strategies.DataObject) -> None:
    good, read = messages()[kind]
    changed = bytearray(good)
    for _ in range(data.draw(strategies.integers(1, 4))):
        changed[data.draw(strategies.integers(0, len(changed) - 1))] = data.draw(strategies.integers(0, 255))
    cut = data.draw(strategies.integers(0, len(changed)))
    for one in (bytes(changed), bytes(changed[:cut])):
        try:
            read(one)
        except HsmBridgeError:
            continue


@pytest.mark.parametrize("kind", KINDS)
@given(noise=strategies.binary(max_size=200))
def test_noise_is_refused(kind: str, noise: bytes) -> None:
    _, read = messages()[kind]
    try:
        read(noise)
    except HsmBridgeError:
        return


@given(strategies.lists(OIDS | ATTRIBUTES, max_size=6))
def test_attributes_are_read_as_they_were_written(items: list[str | Attribute]) -> None:
    assert parse_csrattrs(dump_csrattrs(items)) == CsrAttrs(tuple(items))


@given(strategies.binary(max_size=500), strategies.integers(0, 100))
def test_a_payload_is_read_whatever_its_lines(content: bytes, wrap: int) -> None:
    payload = encode(content, wrap)
    assert decode(payload) == content
    assert decode(b" " + payload.replace(b"\n", b"\r\n\t") + b"\n ") == content


@given(strategies.binary(max_size=300))
def test_a_payload_of_noise_is_refused(noise: bytes) -> None:
    for lenient in (False, True):
        try:
            decode(noise, lenient=lenient)
        except HsmBridgeError:
            continue


@given(strategies.lists(strategies.binary(min_size=1, max_size=200), min_size=1, max_size=4))
def test_parts_are_read_as_they_were_written(contents: list[bytes]) -> None:
    type_, body = dump_multipart(("application/pkcs8", encode(one)) for one in contents)
    parts = parse_multipart(parse_media_type(type_), body)
    assert [decode(one.body) for one in parts] == contents
    assert {one.type.name for one in parts} == {"application/pkcs8"}


@given(strategies.binary(max_size=300), strategies.text(max_size=30))
def test_parts_of_noise_are_refused(noise: bytes, boundary: str) -> None:
    type_ = parse_media_type(f"multipart/mixed; boundary={boundary}")
    for body in (noise, b"--x\r\n" + noise + b"\r\n--x--"):
        for asked in (type_, parse_media_type("multipart/mixed; boundary=x")):
            try:
                parse_multipart(asked, body)
            except HsmBridgeError:
                continue


@given(strategies.text(max_size=200))
def test_headers_of_noise_harm_nothing(header: str) -> None:
    from datetime import UTC, datetime

    parse_challenges(header)
    parse_media_type(header)
    wait = parse_retry_after(header, datetime.now(UTC))
    assert wait is None or wait >= 0


@given(strategies.binary(min_size=1, max_size=64), strategies.text(max_size=64))
def test_a_link_fits_its_own_connection_only(binding: bytes, other: str) -> None:
    assert same(challenge(binding), binding)
    assert not same(other, binding) or base64.b64decode("".join(other.split())) == binding
