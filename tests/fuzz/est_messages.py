"""What EST, CMC and CMS carry: messages of every kind, as client and server read them."""

import functools
from collections.abc import Callable, Mapping

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from est import oids
from est.asn1 import cmc, cmc_pop, der
from est.asn1.csrattrs import Attribute, dump_csrattrs, parse_csrattrs
from est.asn1.template import ExtensionPart, KeyPart, NamePart, Template, dump_template, parse_template
from est.ca.authority import new_root
from est.cms.certs_only import UNREADABLE, dump_certs_only, load_certificate, parse_certs_only
from est.cms.enveloped import Opener, Recipient, SharedKey, open_sealed, seal
from est.cms.key_package import open_key, seal_key
from est.cms.possession import answer_challenge, make_challenge
from est.cms.receiver import software_receiver
from est.cms.signed import dump_signed, parse_signed
from est.csr.capabilities import dump_capabilities, oaep_digest
from est.csr.demands import Demands, demands_of
from est.csr.reading import attributes_of, challenge_password, octet_attribute
from est.csr.request import Wishes, plan, sign_request
from est.keys import SoftwareKey
from tests.fuzz.target import Reader, Target

RECEIVERS: dict[str, PrivateKeyTypes] = {
    "X25519": x25519.X25519PrivateKey.from_private_bytes(bytes(range(32))),
    "EC": ec.derive_private_key(11, ec.SECP256R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "ML-KEM": mlkem.MLKEM768PrivateKey.generate(),
}


@functools.cache
def kinds() -> Mapping[str, tuple[bytes, Callable[[bytes], object]]]:
    """A good message of each kind, and what reads it."""
    key = SoftwareKey(ec.derive_private_key(7, ec.SECP256R1()))
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
    usages = der.Sequence.load(x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH]).public_bytes()).dump()
    older = dump_csrattrs(
        [
            oids.SHA384,
            Attribute(oids.EC_PUBLIC_KEY, (der.oid(oids.P256),)),
            Attribute(oids.EXTENSION_REQUEST, (_extensions(bytes(usages)),)),
        ]
    )
    csr = sign_request(plan(Wishes.of(root.certificate.subject), Demands(), key.signer.public_key()), key, "secret")
    controls = (cmc.Control(1, oids.CMC_SENDER_NONCE, (der.octets(b"n"),)),)
    status = cmc.dump_status(cmc.StatusInfo(2, (1,), "no", 9))
    pending = cmc.dump_status(cmc.StatusInfo(3, (1,), pending_token=b"token"))
    pkcs8 = RECEIVERS["EC"].private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    request = cmc.dump_tagged_request(1, csr)
    receiver = software_receiver(RECEIVERS["X25519"])
    challenge = make_challenge(request, Recipient(receiver.public_key)).encrypted
    proof = answer_challenge(challenge, 1, request, receiver.opener)
    plain = Opener(shared=(shared,))
    return {
        "csrattrs": (listed, lambda one: demands_of(parse_csrattrs(one))),
        "older csrattrs": (older, lambda one: demands_of(parse_csrattrs(one))),
        "template": (dump_template(template), parse_template),
        "certs-only": (dump_certs_only([root.certificate]), parse_certs_only),
        "certificate": (root.certificate.public_bytes(Encoding.DER), _read_certificate),
        "signed": (dump_signed(oids.CCT_PKI_DATA, csr, key, root.certificate), parse_signed),
        "enveloped": (seal(oids.DATA, b"content", shared), lambda one: open_sealed(one, plain)),
        "key package": (seal_key(pkcs8, shared, key, root.certificate), lambda one: _open_key(one, plain)),
        "CMC request": (cmc.dump_request(cmc.CmcRequest(controls, ((2, csr),))), cmc.parse_request),
        "CMC response": (cmc.dump_response((cmc.Control(1, oids.CMC_STATUS_INFO_V2, (status,)),)), _read_response),
        "CMC status": (status, cmc.parse_status),
        "CMC pending": (pending, cmc.parse_status),
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


def _extensions(usages: bytes) -> bytes:
    one = b"\x06\x03\x55\x1d\x25" + der.octets(usages)
    return bytes([0x30, len(one) + 2, 0x30, len(one)]) + one


def _read_certificate(one: bytes) -> object:
    certificate = load_certificate(one)
    return Wishes.like(certificate)


def _open_key(one: bytes, opener: Opener) -> object:
    return open_key(one, opener)


def _read_response(one: bytes) -> object:
    return cmc.statuses(cmc.parse_response(one))


def _read_request(one: bytes) -> object:
    try:
        request = x509.load_der_x509_csr(one)
        for part in (request.subject, request.extensions):
            del part
    except UNREADABLE:
        return None
    octet_attribute(request, oids.DECRYPT_KEY_ID)
    return attributes_of(request), challenge_password(request), Wishes.of_request(request)


TARGET = Target(tuple(Reader(name, read, [good]) for name, (good, read) in kinds().items()))
