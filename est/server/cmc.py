"""Full CMC on the server (RFC 5272, RFC 7030 section 4.3): a signed PKIData, answered signed.

It holds one PKCS#10 request, or asks for one that waits for approval (queryPending). A request whose key does not sign
is answered with a challenge first (RFC 5272 section 6.7).
"""

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from est import keys, oids, refusals
from est.asn1.cmc import (
    CmcFailure,
    CmcRequest,
    CmcStatus,
    Control,
    StatusInfo,
    dump_response,
    dump_status,
    dump_tagged_request,
    find,
    parse_request,
)
from est.asn1.cmc_pop import EncryptedPop, dump_encrypted_pop, parse_decrypted_pop
from est.asn1.der import octets, read
from est.ca.authority import Authority
from est.ca.record import Record
from est.cms.certs_only import UNREADABLE
from est.cms.enveloped import ReceivingPublicKey, Recipient
from est.cms.possession import is_proved, make_challenge
from est.cms.signed import dump_signed, parse_signed
from est.csr.capabilities import oaep_digest
from est.csr.reading import attribute_value
from est.csr.request import is_unsigned
from est.server.messages import Peer
from hsmbridge.core.errors import AccessError, HsmBridgeError


class Issuing(Protocol):
    """What the answer needs of a service."""

    authority: Authority

    @property
    def retry_after(self) -> int:
        """Seconds that a waiting client is told."""
        ...

    def waits(self, operation: str, csr: x509.CertificateSigningRequest, requester: str) -> str:
        """The id under which a request waits for approval, or ""."""
        ...

    def checked_request(
        self, der: bytes, peer: Peer, *, may_be_unsigned: bool = False
    ) -> x509.CertificateSigningRequest:
        """A request whose proofs hold."""
        ...

    def issue(self, csr: x509.CertificateSigningRequest, requester: str) -> x509.Certificate:
        """A certificate."""
        ...


def answer_full_cmc(service: Issuing, der: bytes, requester: str, peer: Peer) -> bytes:
    """The signed PKIResponse to a signed PKIData; a refusal is in its status.

    Raises:
        WireError: the message cannot be read, or nobody known signed it.
    """
    signed = parse_signed(der, bare_key=lambda content: _request_key(service, content), known=peer.certificates)
    if signed.content_type != oids.CCT_PKI_DATA:
        raise refusals.malformed("The message is not a CMC request.")
    if signed.signer is not None and signed.signer != peer.certificate:
        raise refusals.denied("The CMC request is signed with another certificate than the connection has.")
    request = parse_request(signed.content)
    echoes = tuple(
        Control(number, answer_type, (value,))
        for number, (asked, answer_type) in enumerate(_ECHOES, 2)
        if (value := find(request.controls, asked)) is not None
    )
    nonce = Control(9, oids.CMC_SENDER_NONCE, (octets(os.urandom(16)),))
    result = _result(service, request, requester, peer)
    content = dump_response((*result.controls, *echoes, nonce))
    issuer = service.authority.issuer
    return dump_signed(oids.CCT_PKI_RESPONSE, content, issuer.key, issuer.certificate, result.certificates)


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of a request: the controls that tell it, and certificates."""

    controls: tuple[Control, ...]
    certificates: tuple[x509.Certificate, ...] = ()


def _told(status: StatusInfo, *more: Control, certificates: tuple[x509.Certificate, ...] = ()) -> _Result:
    return _Result((Control(1, oids.CMC_STATUS_INFO_V2, (dump_status(status),)), *more), certificates)


def _result(service: Issuing, request: CmcRequest, requester: str, peer: Peer) -> _Result:
    part, failure = 0, CmcFailure.POP_FAILED
    try:
        part, csr = _asked_for(service, request, requester, peer)
        if is_unsigned(csr) and not _token(request):
            challenge = _challenged(service.authority.record, request, csr, requester)
            if challenge is not None:
                status = StatusInfo(CmcStatus.POP_REQUIRED, (part,), failure=CmcFailure.POP_REQUIRED)
                return _told(status, Control(8, oids.CMC_ENCRYPTED_POP, (dump_encrypted_pop(challenge),)))
        failure = CmcFailure.BAD_REQUEST
        token = service.waits("fullcmc", csr, requester)
        if token:
            service.authority.record.keep_request(token, csr.public_bytes(serialization.Encoding.DER), requester)
            until = datetime.now(UTC) + timedelta(seconds=service.retry_after)
            return _told(StatusInfo(CmcStatus.PENDING, (part,), pending_token=token.encode(), pending_until=until))
        certificates = (service.issue(csr, requester),)
        return _told(StatusInfo(CmcStatus.SUCCESS, (part,)), certificates=certificates)
    except HsmBridgeError as problem:
        known = failure if isinstance(problem, AccessError) else CmcFailure.BAD_REQUEST
        return _told(StatusInfo(CmcStatus.FAILED, (part,), problem.message, known))


def _challenged(
    record: Record, request: CmcRequest, csr: x509.CertificateSigningRequest, requester: str
) -> EncryptedPop | None:
    """The challenge for a key that does not sign; None where the request answers the one that it had.

    Raises:
        AccessError: it answers wrongly, or too late.
        RequestError: nothing can be sealed for a key of this type.
    """
    part, der = _single(request)
    tagged = dump_tagged_request(part, der)
    transaction = find(request.controls, oids.CMC_TRANSACTION_ID) or b""
    id_ = hashlib.sha256(b"\0".join((requester.encode(), transaction, tagged))).hexdigest()
    answer = find(request.controls, oids.CMC_DECRYPTED_POP)
    if answer is not None:
        # Taken before it is looked at: a challenge can be answered once, rightly or wrongly.
        proof_value = record.take_challenge(id_)
        if not proof_value or not is_proved(parse_decrypted_pop(answer), part, tagged, proof_value):
            raise refusals.denied("The possession of the key is not proved; send the request again.")
        return None
    public_key = csr.public_key()
    if not isinstance(public_key, ReceivingPublicKey):
        raise refusals.unsupported("A key of this type signs its request.")
    oaep = oaep_digest(attribute_value(csr, oids.SMIME_CAPABILITIES))
    made = make_challenge(tagged, Recipient(public_key, oaep=oaep))
    record.keep_challenge(id_, made.proof_value)
    return made.encrypted


_ECHOES = (
    (oids.CMC_TRANSACTION_ID, oids.CMC_TRANSACTION_ID),
    (oids.CMC_SENDER_NONCE, oids.CMC_RECIPIENT_NONCE),
)


def _asked_for(
    service: Issuing, request: CmcRequest, requester: str, peer: Peer
) -> tuple[int, x509.CertificateSigningRequest]:
    """The request in the message, or with a query the one that waits; and its body part.

    Raises:
        AccessError: it waits for somebody else.
        ResourceError: none waits under this token.
    """
    if not _token(request):
        part, der = _single(request)
        return part, service.checked_request(der, peer, may_be_unsigned=True)
    kept = service.authority.record.kept_request(_token(request))
    if kept is None:
        raise refusals.absent("No request waits under this token; send it again.")
    if kept[1] != requester:
        raise refusals.denied("The request that waits under this token is somebody else's.")
    # Its proofs were checked when it came.
    return 0, x509.load_der_x509_csr(kept[0])


def _token(request: CmcRequest) -> str:
    """The token of a query for a pending request (RFC 5272 section 6.7), or ""."""
    value = find(request.controls, oids.CMC_QUERY_PENDING)
    if value is None:
        return ""
    if request.requests:
        raise refusals.malformed("A query for a pending request has no request in it.")
    token = read("pending token", value, lambda: bytes(core.OctetString.load(value, strict=True).native))
    return token.decode("ascii", "replace") or "-"


def _single(request: CmcRequest) -> tuple[int, bytes]:
    if len(request.requests) != 1:
        raise refusals.unsupported("A CMC request with exactly one certification request is taken.")
    return request.requests[0]


def _request_key(service: Issuing, content: bytes) -> CertificatePublicKeyTypes | None:
    """The key of the request in the message; of a query, that of the request which waits."""
    request = parse_request(content)
    try:
        token = _token(request)
        kept = service.authority.record.kept_request(token) if token else None
        if token and kept is None:
            return None
        key = x509.load_der_x509_csr(kept[0] if kept else _single(request)[1]).public_key()
    except UNREADABLE:
        return None
    return key if keys.can_sign(key) else None
