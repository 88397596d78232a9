"""Full CMC of the client (RFC 5272 as RFC 7030 section 4.3 uses it): the request, and what the response proves."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509

from est import oids, refusals
from est.asn1.cmc import CmcRequest, CmcStatus, Control, StatusInfo, dump_request, find, parse_response, statuses
from est.asn1.der import integer, octets
from est.cms.signed import dump_signed, parse_signed
from est.keys import Key
from est.tls.connection import ClientIdentity
from est.tls.server_identity import is_cmc_ra
from est.trust.anchors import TrustAnchors
from est.trust.path import is_ca, verify_path

_REQUEST_PART = 3
_ID_SIZE = 16


@dataclass(frozen=True, slots=True)
class CmcTransaction:
    """What binds a response to its request."""

    transaction_id: int = field(default_factory=lambda: int.from_bytes(os.urandom(15), "big") | 1)
    nonce: bytes = field(default_factory=lambda: os.urandom(16))

    def note(self, token: bytes) -> bytes:
        """What is kept of a pending request: the transaction and the server's token."""
        return self.transaction_id.to_bytes(_ID_SIZE, "big") + token

    @classmethod
    def of_note(cls, note: bytes) -> tuple["CmcTransaction", bytes]:
        """The transaction that goes on, with a nonce of its own, and the token."""
        return cls(int.from_bytes(note[:_ID_SIZE], "big")), note[_ID_SIZE:]


def full_request(transaction: CmcTransaction, request: bytes, key: Key, identity: ClientIdentity | None) -> bytes:
    """A signed PKIData around a PKCS#10 request: signed by the client's certificate, or by the new key itself."""
    controls = (
        Control(1, oids.CMC_TRANSACTION_ID, (integer(transaction.transaction_id),)),
        Control(2, oids.CMC_SENDER_NONCE, (octets(transaction.nonce),)),
    )
    return _signed(dump_request(CmcRequest(controls, ((_REQUEST_PART, request),))), key, identity)


def _signed(data: bytes, key: Key, identity: ClientIdentity | None) -> bytes:
    if identity is None:
        return dump_signed(oids.CCT_PKI_DATA, data, key)
    return dump_signed(oids.CCT_PKI_DATA, data, identity.key, identity.chain[0], identity.chain[1:])


def pending_query(transaction: CmcTransaction, token: bytes, key: Key, identity: ClientIdentity | None) -> bytes:
    """A signed PKIData that asks what became of a pending request (RFC 5272 section 6.7)."""
    controls = (
        Control(1, oids.CMC_TRANSACTION_ID, (integer(transaction.transaction_id),)),
        Control(2, oids.CMC_SENDER_NONCE, (octets(transaction.nonce),)),
        Control(3, oids.CMC_QUERY_PENDING, (octets(token),)),
    )
    return _signed(dump_request(CmcRequest(controls, ())), key, identity)


def check_full_response(
    der: bytes, transaction: CmcTransaction, anchors: TrustAnchors
) -> tuple[tuple[x509.Certificate, ...], StatusInfo | None]:
    """The certificates of a response whose signer may answer for the CA; and the status of a pending request.

    Raises:
        WireError: it cannot be read, or answers another request.
        CertificateError: its signer is neither a CA nor an RA that leads to an Explicit anchor.
        RequestError: the CA refuses; the message tells its reason.
    """
    signed = parse_signed(der, known=(*anchors.explicit, *anchors.intermediates))
    if signed.content_type != oids.CCT_PKI_RESPONSE or signed.signer is None:
        raise refusals.malformed("The message is not a signed CMC response.")
    verify_path(signed.signer, (*signed.certificates, *anchors.intermediates), anchors.explicit)
    if not (is_ca(signed.signer) or is_cmc_ra(signed.signer)):
        raise refusals.untrusted("The CMC response is signed by somebody who is neither a CA nor an RA.")
    controls = parse_response(signed.content)
    _check_echo(controls, transaction)
    for status in statuses(controls):
        if status.status == CmcStatus.PENDING:
            return (), status
        if status.status != CmcStatus.SUCCESS:
            raise refusals.unwanted(f"The CA does not take the request: {_printable(str(status))}.")
    return signed.certificates, None


def _check_echo(controls: Iterable[Control], transaction: CmcTransaction) -> None:
    listed = tuple(controls)
    expected = (
        (oids.CMC_RECIPIENT_NONCE, octets(transaction.nonce), "nonce"),
        (oids.CMC_TRANSACTION_ID, integer(transaction.transaction_id), "transaction"),
    )
    for type_, value, what in expected:
        if find(listed, type_) != value:
            raise refusals.malformed(f"The CMC response does not repeat the {what} of the request.")


def _printable(text: str) -> str:
    return "".join(one for one in text[:300] if one.isprintable())
