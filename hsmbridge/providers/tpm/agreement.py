"""Key agreement by a TPM: ECDH (SP 800-56A), whose raw secret a TPM answers and cannot keep."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from tpm2_pytss import TPM2_RC, TPM2B_ECC_POINT, TSS2_Exception

from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.providers.tpm.device import Opened
from hsmbridge.providers.tpm.errors import base_code
from hsmbridge.providers.tpm.key_use import KeyUse
from hsmbridge.providers.tpm.schemes import field_size, point_to_tpm, shared_x


def agree_secret(use: KeyUse, peer_public_key: bytes) -> bytes:
    """The x coordinate of the shared point. Raises RequestError (INVALID_ARGUMENT)."""
    point = _point(use, peer_public_key)

    def command(opened: Opened) -> TPM2B_ECC_POINT:
        return opened.esapi.ecdh_zgen(use.object(opened), point, session1=opened.secrecy.authorising)

    return shared_x(use.tpm.run(command, _verdict), field_size(use.key.row))


def _point(use: KeyUse, spki: bytes) -> TPM2B_ECC_POINT:
    try:
        peer = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            "The peer's public key is not a valid SubjectPublicKeyInfo in DER of a supported algorithm.",
            origin=repr(cause),
        ) from None
    if not isinstance(peer, ec.EllipticCurvePublicKey) or peer.curve.name != use.key.row.parameter_set:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"The peer's public key is not of the type that {use.row.name} agrees with here.",
        )
    numbers = peer.public_numbers()
    return point_to_tpm(numbers.x, numbers.y, field_size(use.key.row))


def _verdict(failure: TSS2_Exception) -> HsmBridgeError | None:
    if base_code(failure) != TPM2_RC.ECC_POINT:
        return None
    return RequestError(Status.INVALID_ARGUMENT, "The peer's public key is not a point on the curve.")
