"""Which parameters a signature or MAC takes: what an algorithm does not know is refused, never ignored."""

from cryptography.hazmat.primitives.hashes import HashAlgorithm

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.params import SignatureParameters

MU_SIZE = 64
"""Bytes of the message representative of ML-DSA (FIPS 204 algorithm 7)."""


def check_parameters(
    row: Algorithm,
    parameters: SignatureParameters,
    message: bytes,
    *,
    context: bool = False,
    mu: bool = False,
    salt: bool = False,
    digest: HashAlgorithm | None = None,
) -> None:
    """Refuse what the algorithm does not take. Raises RequestError (INVALID_ARGUMENT).

    Args:
        row: the algorithm, for the message.
        parameters: what the caller asked for.
        message: what is to be signed; a digest where the parameters say so.
        context: the algorithm takes a context string.
        mu: it takes the message representative in place of the message.
        salt: it takes a salt of a given length.
        digest: the hash whose digest it signs, or None where it must see the message itself.
    """
    if parameters.context and not context:
        raise _refused(f"{row.name} takes no context string.")
    if parameters.external_mu:
        if not mu:
            raise _refused(f"{row.name} takes the message itself; external_mu is for ML-DSA.")
        if len(message) != MU_SIZE:
            raise _refused(
                f"The message representative of {row.name} has {MU_SIZE} bytes; this one has {len(message)}."
            )
    if parameters.salt_length is not None and not salt:
        raise _refused(f"{row.name} has no salt; salt_length is for RSASSA-PSS.")
    if parameters.digest_signing:
        if digest is None:
            raise _refused(f"{row.name} takes the message itself, not its digest.")
        if len(message) != digest.digest_size:
            raise _refused(f"{row.name} signs digests of {digest.digest_size} bytes; this one has {len(message)}.")


def _refused(message: str) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, message)
