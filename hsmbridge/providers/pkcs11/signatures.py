"""Signatures and MACs on a token. DigestInfo: RFC 8017, section 9.2; PSS: section 9.1."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from asn1crypto.algos import DigestInfo
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from pkcs11 import Mechanism, SignMixin, VerifyMixin
from pkcs11.exceptions import PKCS11Error

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, Scheme
from hsmbridge.core.errors import LimitError, RequestError, SignatureInvalid, Status
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.params import SignatureParameters
from hsmbridge.providers.pkcs11.errors import NO_DEVICE_ERRORS, Refusals
from hsmbridge.providers.pkcs11.mechanisms import (
    HASHES,
    MGFS,
    SIGNATURE_SCHEMES,
    WITH_CONTEXT,
    WITHOUT_HASH,
    hash_mechanism,
    mechanism_of,
    not_permitted,
)
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.parameters import NO_PARAMETER, Parameter, pss, pure_eddsa, signature_context

_SIGNATURE_BUFFER = 512  # bytes, of RSA-4096; python-pkcs11 takes a larger one where that is too small


@dataclass(frozen=True, slots=True)
class SigningPlan:
    """How to sign or verify under one row and its parameters.

    Attributes:
        prepare: makes of the message what the token is given.
        half: bytes of r and of s where the signature is ECDSA's, else 0.
        longest: bytes of the longest message, or 0 where there is no limit.
        size: bytes of a signature or MAC where the algorithm fixes them, else 0.
    """

    mechanism: Mechanism
    parameter: Parameter
    prepare: Callable[[bytes], bytes] | None
    half: int
    size: int = 0
    longest: int = 0


class SigningPlans:
    """The plans for a token, each made once.

    Args:
        offered: numbers of its mechanisms.
        flagged: EdDSA rows for which it wants CK_EDDSA_PARAMS; the standard has them for Ed448, and not for Ed25519.
        longest: bytes of the longest message that it takes at once, by scheme.
    """

    def __init__(
        self,
        offered: frozenset[int],
        flagged: frozenset[str] = frozenset(),
        longest: Mapping[Scheme, int] = MappingProxyType({}),
    ) -> None:
        self._offered = offered
        self._flagged = flagged
        self._longest = longest
        self._plans: dict[tuple[str, int | None, bool, bytes], SigningPlan] = {}

    def plan(self, row: Algorithm, parameters: SignatureParameters) -> SigningPlan:
        """The plan. Raises RequestError (NOT_SUPPORTED, INVALID_ARGUMENT) where there can be none."""
        if parameters.external_mu:
            raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} takes the message, not its representative.")
        key = (row.name, parameters.salt_length, parameters.digest_signing, parameters.context)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._make(row, parameters)
        return plan

    def _make(self, row: Algorithm, parameters: SignatureParameters) -> SigningPlan:
        _check_parameters(row, parameters)
        full, bare = mechanism_of(row), WITHOUT_HASH.get(row.scheme)
        parameter = self._parameter(row, parameters)
        half = row.output_size // 2 if row.scheme is Scheme.ECDSA else 0
        size = 0 if half else row.output_size
        if full in self._offered and full is not None and not parameters.digest_signing:
            return SigningPlan(full, parameter, None, half, size, self._longest.get(row.scheme, 0))
        if bare is None or bare not in self._offered:
            raise RequestError(Status.NOT_SUPPORTED, f"The token has no mechanism for {row.name}.")
        return SigningPlan(bare, parameter, _preparation(row, parameters), half, size)

    def _parameter(self, row: Algorithm, parameters: SignatureParameters) -> Parameter:
        if row.scheme is Scheme.RSASSA_PSS:
            return _pss(row, parameters)
        if parameters.context:
            return signature_context(parameters.context)
        return pure_eddsa() if row.name in self._flagged else NO_PARAMETER


def _check_parameters(row: Algorithm, parameters: SignatureParameters) -> None:
    if row.scheme not in SIGNATURE_SCHEMES:
        raise RequestError(Status.NOT_SUPPORTED, f"This provider cannot sign with {row.name}.")
    if parameters.context and row.scheme not in WITH_CONTEXT:
        raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} takes no context.")
    if parameters.salt_length is not None and row.scheme is not Scheme.RSASSA_PSS:
        raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} has no salt.")
    if parameters.digest_signing and row.scheme not in WITHOUT_HASH:
        raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} takes the message, not its digest.")


def check_salt(row: Algorithm, key_row: KeyType, parameters: SignatureParameters) -> None:
    """Refuse a PSS salt that does not fit beside the digest (RFC 8017, section 9.1.1)."""
    salt = parameters.salt_length
    if salt is not None and row.scheme is Scheme.RSASSA_PSS:
        most = (key_row.bits + 6) // 8 - ALGORITHMS[row.hash].output_size - 2
        if salt > most:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                f"A salt for {row.name} under a key of type {key_row.name} has at most {most} bytes, not {salt}.",
            )


def _pss(row: Algorithm, parameters: SignatureParameters) -> Parameter:
    salt = ALGORITHMS[row.hash].output_size if parameters.salt_length is None else parameters.salt_length
    return pss(hash_mechanism(row), MGFS[row.hash], salt)


def _preparation(row: Algorithm, parameters: SignatureParameters) -> Callable[[bytes], bytes]:
    size = ALGORITHMS[row.hash].output_size
    compute = HASHES[row.hash]
    prefix = _digest_info_prefix(row.hash, size) if row.scheme is Scheme.RSASSA_PKCS1 else b""

    def whole(digest: bytes) -> bytes:
        if len(digest) != size:
            raise RequestError(Status.INVALID_ARGUMENT, f"A digest of {row.hash} has {size} bytes, not {len(digest)}.")
        return prefix + digest

    if parameters.digest_signing:
        return whole
    return (lambda message: prefix + compute(message)) if prefix else compute


def _digest_info_prefix(hash_: str, size: int) -> bytes:
    name = hash_.replace("-", "").lower()
    whole: bytes = DigestInfo({"digest_algorithm": {"algorithm": name}, "digest": bytes(size)}).dump()
    return whole[:-size]


def sign(keys: KeyObjects, plan: SigningPlan, message: bytes) -> bytes:
    """A signature (ECDSA in DER) or a MAC."""
    key = keys.secret or keys.private
    if not isinstance(key, SignMixin):
        raise not_permitted("sign")
    _check_length(plan, message)
    data = message if plan.prepare is None else plan.prepare(message)
    signature = key.sign(
        data, mechanism=plan.mechanism, mechanism_param=plan.parameter.given, buffer_size=_SIGNATURE_BUFFER
    )
    half = plan.half
    if not half:
        return signature
    return encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))


def verify(
    keys: KeyObjects, plan: SigningPlan, message: bytes, signature: bytes, refusals: Refusals = NO_DEVICE_ERRORS
) -> None:
    """Raises SignatureInvalid for whatever does not verify."""
    key = keys.secret or keys.public
    if not isinstance(key, VerifyMixin):
        raise not_permitted("verify")
    _check_length(plan, message)
    data = message if plan.prepare is None else plan.prepare(message)
    if plan.half:
        signature = _fixed_size(signature, plan.half)
    try:
        valid = key.verify(data, signature, mechanism=plan.mechanism, mechanism_param=plan.parameter.given)
    except PKCS11Error as failure:
        if refusals.data(failure):
            raise SignatureInvalid(Status.SIGNATURE_INVALID) from None
        raise
    # NSS softokn takes a MAC that was cut, down to its first bytes.
    if not valid or (plan.size and len(signature) != plan.size):
        raise SignatureInvalid(Status.SIGNATURE_INVALID)


def _check_length(plan: SigningPlan, message: bytes) -> None:
    if plan.longest and len(message) > plan.longest:
        raise LimitError(
            Status.DATA_TOO_LARGE,
            f"The token takes at most {plan.longest} bytes for this algorithm, not {len(message)}.",
        )


def _fixed_size(signature: bytes, half: int) -> bytes:
    try:
        r, s = decode_dss_signature(signature)
        return r.to_bytes(half) + s.to_bytes(half)
    except (ValueError, OverflowError):
        raise SignatureInvalid(Status.SIGNATURE_INVALID) from None
