"""The operations of one CA over EST (RFC 7030 section 4), from request to response; no socket, no thread.

Errors go to the client as text for people; what is the server's own business stays out of it.
"""

import hashlib
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from est import keys, oids, refusals
from est.asn1.change_subject_name import parse_change_subject_name
from est.ca.authority import Authority, Names, alternative_name_in
from est.ca.profile import Profile
from est.cms.certs_only import UNREADABLE, dump_certs_only
from est.cms.enveloped import ReceivingPublicKey, Recipient, SharedKey
from est.cms.key_package import seal_key
from est.cms.signed import key_identifier
from est.csr.alternative_names import alternative_names_of, subject_alternative_name
from est.csr.capabilities import oaep_digest
from est.csr.linking import same
from est.csr.reading import attribute_value, challenge_password, octet_attribute
from est.csr.request import Wishes, is_unsigned
from est.http import media_type
from est.http.media_type import parse_media_type
from est.http.multipart import dump_multipart
from est.http.payload import decode, encode
from est.server.authentication import Authenticator
from est.server.cmc import answer_full_cmc
from est.server.messages import Peer, ServerRequest, ServerResponse


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How one CA is offered.

    Attributes:
        wrap: the length of base64 lines in replies, 0 for one line: some clients need the one, some the other.
        ca_certificates: what /cacerts gives beside the CA's own chain, such as bridges of a roll-over.
        shared_keys: keys to encrypt server-made keys with, by name.
    """

    profile: Profile = field(default_factory=Profile)
    wrap: int = 64
    ca_certificates: tuple[x509.Certificate, ...] = ()
    shared_keys: tuple[SharedKey, ...] = ()


class EstService:
    """One CA over EST."""

    def __init__(self, authority: Authority, authenticator: Authenticator, settings: ServiceSettings) -> None:
        self.authority = authority
        self._authenticator = authenticator
        self._settings = settings

    def handle(self, operation: str, request: ServerRequest, peer: Peer) -> ServerResponse:
        """Carry out one operation.

        Raises:
            HsmBridgeError: the caller turns it into a response.
        """
        method = "GET" if operation in {"cacerts", "csrattrs"} else "POST"
        if request.method != method:
            return ServerResponse(405, headers=(("Allow", method),), body=b"This operation has another method.\n")
        match operation:
            case "cacerts":
                return self._cacerts()
            case "csrattrs":
                return self._csrattrs()
            case "simpleenroll" | "simplereenroll" | "serverkeygen" | "fullcmc":
                return self._authenticated(operation, request, peer)
            case _:
                raise refusals.absent("There is no such operation.")

    def _cacerts(self) -> ServerResponse:
        chain = (*self.authority.issuer.chain, *self._settings.ca_certificates)
        return self._reply(media_type.CERTS_ONLY, dump_certs_only(dict.fromkeys(chain)))

    def _csrattrs(self) -> ServerResponse:
        der = self._settings.profile.csrattrs()
        return self._reply(media_type.CSRATTRS, der) if der else ServerResponse(204)

    def _reply(self, type_: str, der: bytes) -> ServerResponse:
        headers = (("Content-Transfer-Encoding", "base64"),)
        return ServerResponse(200, type_, encode(der, self._settings.wrap), headers)

    def _authenticated(self, operation: str, request: ServerRequest, peer: Peer) -> ServerResponse:
        requester = self._authenticator.requester(request, peer, self.authority)
        if not requester:
            challenges = self._authenticator.challenges()
            headers = tuple(("WWW-Authenticate", one) for one in challenges)
            if headers:
                # No body: Bouncy Castle's client gives up on a 401 whose body it would have to skip.
                return ServerResponse(401, headers=headers)
            return ServerResponse(403, body=b"No certificate that this CA takes was shown.\n")
        wanted = media_type.PKCS7 if operation == "fullcmc" else media_type.PKCS10
        if parse_media_type(request.headers.get("content-type", "")).name != wanted:
            return ServerResponse(415, body=f"This operation takes {wanted}.\n".encode())
        der = decode(request.body, lenient=True)
        if operation == "fullcmc":
            return self._reply(media_type.CMC_RESPONSE, answer_full_cmc(self, der, requester, peer))
        csr = self.checked_request(der, peer)
        names: Names | None = None
        if operation == "simplereenroll":
            _check_same_names(csr, peer)
            names = self._changed_names(csr)
        if self.waits(operation, csr, requester, names):
            after = str(self._settings.profile.retry_after)
            return ServerResponse(202, headers=(("Retry-After", after),), body=b"Wait for approval.\n")
        if operation == "serverkeygen":
            return self._server_keygen(csr, requester, peer)
        certificate = self.authority.issue(csr, self._settings.profile, requester, names=names)
        return self._reply(media_type.CERTS_ONLY, dump_certs_only([certificate]))

    @property
    def retry_after(self) -> int:
        """Seconds that a waiting client is told."""
        return self._settings.profile.retry_after

    def waits(
        self, operation: str, csr: x509.CertificateSigningRequest, requester: str, names: Names | None = None
    ) -> str:
        """The id under which a request waits for its approval; "" for one that may pass now."""
        if self._settings.profile.approve:
            return ""
        subject = (names.subject if names else csr.subject).rfc4514_string()
        if names is not None:
            # Whoever approves sees what is changed; and an approval without a change is not one for it.
            others = ", ".join(str(one.value) for one in names.alternative) if names.alternative else "none"
            subject = f"{subject} (was {csr.subject.rfc4514_string()}; other names: {others})"
        id_ = hashlib.sha256(f"{operation}:{subject}".encode() + keys.spki(csr.public_key())).hexdigest()[:32]
        if not self.authority.record.wait(id_, subject, requester):
            return id_
        self.authority.record.done_waiting(id_)
        return ""

    def checked_request(
        self, der: bytes, peer: Peer, *, may_be_unsigned: bool = False
    ) -> x509.CertificateSigningRequest:
        """A PKCS#10 request whose proof of possession holds and whose link, if there is one, is to this connection.

        Args:
            may_be_unsigned: the key may be one that does not sign; whoever calls has its possession proved.

        Raises:
            WireError: it cannot be read.
            AccessError: a proof is missing or wrong.
        """
        try:
            csr = x509.load_der_x509_csr(der)
            unsigned = is_unsigned(csr)
            good = unsigned or csr.is_signature_valid
            for part in (csr.subject, csr.extensions):
                del part
        except UNREADABLE:
            raise refusals.malformed("The request is not a readable PKCS#10 request.") from None
        if not good or (unsigned and not may_be_unsigned):
            raise refusals.denied("The request is not signed by its own key; one that cannot sign comes by full CMC.")
        challenge = challenge_password(csr)
        if challenge and not any(same(challenge, one) for one in peer.bindings):
            raise refusals.denied("The request is linked to another TLS connection (proof of possession mismatch).")
        if self._settings.profile.link and not challenge:
            raise refusals.denied("The request must be linked to its TLS connection by challengePassword.")
        return csr

    def issue(self, csr: x509.CertificateSigningRequest, requester: str) -> x509.Certificate:
        """A certificate by this service's profile."""
        return self.authority.issue(csr, self._settings.profile, requester)

    def _changed_names(self, csr: x509.CertificateSigningRequest) -> Names | None:
        """The names that the request wants in place of those of the certificate that is renewed; None for the same."""
        value = attribute_value(csr, oids.CMC_CHANGE_SUBJECT_NAME)
        if not value:
            return None
        if not self._settings.profile.rename:
            raise refusals.denied("This profile changes no names in a renewal; enrol anew for another name.")
        changed = parse_change_subject_name(value)
        try:
            subject = x509.Name.from_bytes(changed.subject) if changed.subject else csr.subject
        except UNREADABLE:
            raise refusals.malformed("The new names in the request cannot be read.") from None
        if changed.alternative_names:
            return Names(subject, subject_alternative_name(changed.alternative_names))
        return Names(subject, alternative_name_in(csr))

    def _server_keygen(self, csr: x509.CertificateSigningRequest, requester: str, peer: Peer) -> ServerResponse:
        recipient = self._recipient(csr, peer)
        if recipient is None and not self._settings.profile.plain_keys:
            raise refusals.denied("This server sends no key without encryption; ask for it by a key identifier.")
        key = _new_key(self._settings.profile)
        certificate = self.authority.issue(csr, self._settings.profile, requester, key.signer.public_key())
        pkcs8 = key.signer.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        issuer = self.authority.issuer
        if recipient is None:
            first = (media_type.PKCS8, pkcs8)
        else:
            first = (media_type.SERVER_GENERATED_KEY, seal_key(pkcs8, recipient, issuer.key, issuer.certificate))
        wrap = self._settings.wrap
        parts = [
            (first[0], encode(first[1], wrap)),
            (media_type.CERTS_ONLY, encode(dump_certs_only([certificate]), wrap)),
        ]
        type_, body = dump_multipart(parts)
        return ServerResponse(200, type_, body)

    def _recipient(self, csr: x509.CertificateSigningRequest, peer: Peer) -> Recipient | SharedKey | None:
        shared = octet_attribute(csr, oids.DECRYPT_KEY_ID)
        if shared:
            found = next((one for one in self._settings.shared_keys if one.name == shared), None)
            if found is None:
                raise refusals.unwanted("The server does not have the shared key that is asked for.")
            return found
        asymmetric = octet_attribute(csr, oids.ASYMM_DECRYPT_KEY_ID)
        if not asymmetric:
            return None
        for one in peer.certificates:
            public_key = one.public_key()
            if key_identifier(public_key) == asymmetric and isinstance(public_key, ReceivingPublicKey):
                return Recipient(public_key, one, oaep_digest(attribute_value(csr, oids.SMIME_CAPABILITIES)))
        raise refusals.unwanted("The server does not know the key that is to receive the private key.")


def _new_key(profile: Profile) -> keys.SoftwareKey:
    wanted = profile.key_part
    if wanted is None or wanted.algorithm == oids.EC_PUBLIC_KEY:
        curves = {oids.P384: ec.SECP384R1(), oids.P521: ec.SECP521R1()}
        curve = curves.get(wanted.curve, ec.SECP256R1()) if wanted else ec.SECP256R1()
        return keys.SoftwareKey(ec.generate_private_key(curve))
    if wanted.algorithm == oids.RSA_ENCRYPTION:
        return keys.SoftwareKey(rsa.generate_private_key(65537, wanted.bits or 3072))
    raise refusals.unsupported("The server does not make keys of the type that this profile has.")


def _check_same_names(csr: x509.CertificateSigningRequest, peer: Peer) -> None:
    current = peer.certificate
    if current is None:
        raise refusals.denied("A renewal is asked for with the certificate that is to be renewed.")
    asked, held = _names(Wishes.of_request(csr)), _names(Wishes.like(current))
    if asked != held:
        raise refusals.denied("The request has other names than the certificate that is to be renewed.")


def _names(wishes: Wishes) -> tuple[bytes, frozenset[bytes]]:
    value = next((one.value for one in wishes.extensions if one.value is not None), None)
    return wishes.subject, alternative_names_of(value) if value else frozenset()
