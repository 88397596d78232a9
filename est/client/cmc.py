"""Full CMC of the client (RFC 5272 as RFC 7030 section 4.3 uses it): the request, and what the response proves."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cryptography import x509

from est import oids, refusals
from est.asn1.cmc import (
    CmcFailure,
    CmcRequest,
    CmcStatus,
    Control,
    StatusInfo,
    dump_request,
    dump_tagged_request,
    find,
    parse_response,
    statuses,
)
from est.asn1.cmc_pop import DecryptedPop, dump_decrypted_pop, parse_encrypted_pop
from est.asn1.der import integer, octets
from est.client.late_request import LateRequest
from est.cms.possession import answer_challenge
from est.cms.receiver import Receiver
from est.cms.signed import dump_signed, parse_signed
from est.keys import Key
from est.tls.connection import ClientIdentity, Connection
from est.tls.server_identity import is_cmc_ra
from est.trust.anchors import TrustAnchors
from est.trust.path import is_ca, verify_path

_REQUEST_PART = 3
_ID_SIZE = 16
_NONCE_SIZE = 16


@dataclass(frozen=True, slots=True)
class CmcTransaction:
    """What binds a response to its request."""

    transaction_id: int = field(default_factory=lambda: int.from_bytes(os.urandom(15), "big") | 1)
    nonce: bytes = field(default_factory=lambda: os.urandom(_NONCE_SIZE))

    def note(self, token: bytes) -> bytes:
        """What is kept of a pending request: the transaction and the server's token."""
        return self.transaction_id.to_bytes(_ID_SIZE, "big") + token

    @classmethod
    def of_note(cls, note: bytes) -> tuple["CmcTransaction", bytes]:
        """The transaction that goes on, with a nonce of its own, and the token."""
        return cls(int.from_bytes(note[:_ID_SIZE], "big")), note[_ID_SIZE:]


@dataclass(frozen=True, slots=True)
class Told:
    """What a response says: certificates, or that the request waits, or that the key's possession is to be proved.

    Attributes:
        note: what is kept of a request that waits, to ask for it again.
        challenge: the EncryptedPOP control, DER.
    """

    certificates: tuple[x509.Certificate, ...] = ()
    waiting: StatusInfo | None = None
    note: bytes = b""
    challenge: bytes | None = None


class FullCmc:
    """The messages of one transaction; each is signed when its connection stands."""

    def __init__(self, request: LateRequest, key: Key | Receiver, note: bytes = b"") -> None:
        """`note` is that of a request which waits."""
        self._request, self._key = request, key
        self._transaction, self._token = CmcTransaction.of_note(note) if note else (CmcTransaction(), b"")
        self._sent = b""
        self._answer: DecryptedPop | None = None

    def make(self, connection: Connection) -> bytes:
        """A signed PKIData around the request, with the proof that was asked for if it is for this same request; or
        one that asks what became of a request that waits (RFC 5272 section 6.7).

        Raises:
            RequestError: there is nothing to sign it with.
        """
        controls = [
            Control(1, oids.CMC_TRANSACTION_ID, (integer(self._transaction.transaction_id),)),
            Control(2, oids.CMC_SENDER_NONCE, (octets(self._transaction.nonce),)),
        ]
        if self._token:
            controls.append(Control(3, oids.CMC_QUERY_PENDING, (octets(self._token),)))
            return self._signed(CmcRequest(tuple(controls), ()), connection.identity)
        made = self._request.make(connection)
        if self._answer is not None and made == self._sent:
            controls.append(Control(4, oids.CMC_DECRYPTED_POP, (dump_decrypted_pop(self._answer),)))
        self._sent = made
        return self._signed(CmcRequest(tuple(controls), ((_REQUEST_PART, made),)), connection.identity)

    def _signed(self, request: CmcRequest, identity: ClientIdentity | None) -> bytes:
        data = dump_request(request)
        if identity is not None:
            return dump_signed(oids.CCT_PKI_DATA, data, identity.key, identity.chain[0], identity.chain[1:])
        if isinstance(self._key, Receiver):
            raise refusals.unwanted(
                "This key does not sign; a certificate whose key does is needed to ask for one for it."
            )
        return dump_signed(oids.CCT_PKI_DATA, data, self._key)

    def told(self, der: bytes, anchors: TrustAnchors) -> Told:
        """What a response says, whose signer may answer for the CA.

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
        _check_echo(controls, self._transaction)
        challenge = find(controls, oids.CMC_ENCRYPTED_POP) if isinstance(self._key, Receiver) else None
        for status in statuses(controls):
            if status.status == CmcStatus.PENDING:
                note = self._transaction.note(status.pending_token) if status.pending_token else b""
                return Told(waiting=status, note=note)
            if challenge is not None and status.failure in {None, CmcFailure.POP_REQUIRED}:
                return Told(challenge=challenge)
            if status.status != CmcStatus.SUCCESS:
                raise refusals.unwanted(f"The CA does not take the request: {_printable(str(status))}.")
        return Told(signed.certificates)

    def answer(self, challenge: bytes) -> None:
        """Open the challenge; the next message proves the key's possession with what was in it.

        Raises:
            AccessError: it is about another request or key.
            WireError: it cannot be read.
        """
        if not isinstance(self._key, Receiver):
            raise refusals.unsupported("This key signs its requests; it answers no challenge.")
        tagged = dump_tagged_request(_REQUEST_PART, self._sent)
        self._answer = answer_challenge(parse_encrypted_pop(challenge), _REQUEST_PART, tagged, self._key.opener)
        self._transaction = replace(self._transaction, nonce=os.urandom(_NONCE_SIZE))


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
