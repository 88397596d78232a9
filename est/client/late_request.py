"""Requests that are signed when their connection stands, and what is asked of a server that is to make a key."""

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from est import keys, oids
from est.asn1.csrattrs import Attribute
from est.asn1.der import octets
from est.cms.enveloped import Opener
from est.cms.receiver import Receiver
from est.cms.signed import key_identifier
from est.csr.capabilities import dump_capabilities
from est.csr.linking import Link, challenge
from est.csr.request import Plan, sign_request, unsigned_request
from est.tls.channel_binding import binding_value
from est.tls.connection import Connection


class LateRequest:
    """A request that is signed when its connection stands; that of a key which does not sign is made then too."""

    def __init__(self, link: Link, key: keys.Key | Receiver, planned: Plan, kept: bytes = b"") -> None:
        self._link = link
        self._key = key
        self._plan = planned
        self.repeatable = kept
        """The request if it may be sent again as it is, or b""."""

    def make(self, connection: Connection) -> bytes:
        """The request for this connection, PKCS#10."""
        binding = binding_value(connection.sock, self._link, demanded=self._plan.link_demanded)
        if binding:
            self.repeatable = b""
            return self._made(challenge(binding))
        if not self.repeatable:
            self.repeatable = self._made("")
        return self.repeatable

    def _made(self, challenge_: str) -> bytes:
        if isinstance(self._key, Receiver):
            return unsigned_request(self._plan, self._key.public_key, challenge_)
        return sign_request(self._plan, self._key, challenge_)


def public_key_of(key: keys.Key | Receiver) -> CertificatePublicKeyTypes:
    """The key that is to be certified."""
    return key.public_key if isinstance(key, Receiver) else key.signer.public_key()


def key_id(key: keys.Key | Receiver) -> str:
    """A name for the key in the record of a pending request."""
    return hashlib.sha256(keys.spki(public_key_of(key))).hexdigest()


def key_transport(opener: Opener | None, recipient: x509.Certificate | None) -> tuple[Attribute, ...]:
    """The attributes that say what a key from the server is to travel under (RFC 7030 section 4.4.1)."""
    if recipient is not None:
        name = octets(key_identifier(recipient.public_key()))
        return (Attribute(oids.ASYMM_DECRYPT_KEY_ID, (name,)), capabilities(opener))
    if opener is not None and opener.shared:
        name = octets(opener.shared[0].name)
        return (Attribute(oids.DECRYPT_KEY_ID, (name,)), capabilities(opener))
    return ()


def capabilities(opener: Opener | None) -> Attribute:
    """The attribute that says what can be opened."""
    return Attribute(oids.SMIME_CAPABILITIES, (dump_capabilities(opener.oaep if opener is not None else ()),))
