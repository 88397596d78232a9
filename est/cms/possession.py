"""Proof of possession for a key that does not sign (RFC 5272 section 6.7): who can open the challenge has the key.

The server seals a random POP Proof Value for the key in the request. The client opens it and answers with an HMAC
over the request under that value, which ties the proof to this very request. SHA-256 in both places (RFC 6402).
"""

import hashlib
import hmac
import os
from dataclasses import dataclass

from cryptography.hazmat.primitives import constant_time

from est import oids, refusals
from est.asn1.cmc_pop import DecryptedPop, EncryptedPop
from est.cms.enveloped import Opener, Recipient, open_sealed, seal
from hsmbridge.core.errors import DecryptionFailed

_PROOF_VALUE_SIZE = 32
_MACS = {oids.HMAC_WITH_SHA256: "sha256"}
_USED = 64
"""Octets of a longer POP Proof Value that make the key of the HMAC."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What goes to the client, and the POP Proof Value, which stays here until the answer comes."""

    encrypted: EncryptedPop
    proof_value: bytes

    def __repr__(self) -> str:
        return "Challenge(...)"


def make_challenge(request: bytes, recipient: Recipient) -> Challenge:
    """A challenge for the holder of the key in `request`, a TaggedRequest.

    Raises:
        RequestError: nothing can be sealed for a key of this type.
    """
    proof_value = os.urandom(_PROOF_VALUE_SIZE)
    encrypted = EncryptedPop(
        request=request,
        sealed=seal(oids.DATA, proof_value, recipient),
        pop_algorithm=oids.HMAC_WITH_SHA256,
        witness_algorithm=oids.SHA256,
        witness=hashlib.sha256(proof_value).digest(),
    )
    return Challenge(encrypted, proof_value)


def answer_challenge(encrypted: EncryptedPop, part: int, request: bytes, opener: Opener) -> DecryptedPop:
    """Open a challenge that is about `request`, a TaggedRequest of body part `part`.

    Raises:
        AccessError: it is about another request, or is not for this key; nothing is to be sent.
        RequestError: it asks for an algorithm that est does not have.
    """
    if encrypted.request != request:
        raise refusals.denied("The CA's challenge is about another request than ours; it was not answered.")
    digest, mac = oids.DIGESTS.get(encrypted.witness_algorithm), _MACS.get(encrypted.pop_algorithm)
    if digest is None or mac is None:
        raise refusals.unsupported("The CA's challenge asks for an algorithm other than SHA-2 and HMAC with SHA-256.")
    try:
        proof_value = open_sealed(encrypted.sealed, opener).content
    except DecryptionFailed:
        raise refusals.denied("The CA's challenge is not for this key; it was not answered.") from None
    if not constant_time.bytes_eq(hashlib.new(digest, proof_value).digest(), encrypted.witness):
        raise refusals.denied("The CA's challenge does not fit its witness; it was not answered.")
    return DecryptedPop(part, encrypted.pop_algorithm, hmac.digest(proof_value[:_USED], request, mac))


def is_proved(answer: DecryptedPop, part: int, request: bytes, proof_value: bytes) -> bool:
    """Whether the answer proves the possession of the key in `request`, a TaggedRequest of body part `part`."""
    if answer.part != part or answer.pop_algorithm != oids.HMAC_WITH_SHA256:
        return False
    return constant_time.bytes_eq(hmac.digest(proof_value[:_USED], request, "sha256"), answer.proof)
