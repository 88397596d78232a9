"""From a row of the algorithm table to the structures of the TPM's commands, and back from its answers.

Wire forms are those of the TPM 2.0 library specification part 2 section 11: big-endian, sized buffers with 16-bit
lengths. Scheme structures are made once; nothing writes to them.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from tpm2_pytss import (
    TPM2_ALG,
    TPM2_CC,
    TPM2_RH,
    TPM2_ST,
    TPM2B_DIGEST,
    TPM2B_ECC_POINT,
    TPMS_SCHEME_HASH,
    TPMT_RSA_DECRYPT,
    TPMT_SIG_SCHEME,
    TPMT_SIGNATURE,
    TPMT_TK_HASHCHECK,
    TPMU_ASYM_SCHEME,
    TPMU_SIG_SCHEME,
)

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, KeyOperation, Kind, Scheme
from hsmbridge.core.errors import RequestError, SignatureInvalid, Status
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters


class _Hash(Protocol):
    def digest(self) -> bytes: ...


_SOFTWARE_HASHES: Mapping[str, Callable[[bytes], _Hash]] = MappingProxyType(
    {
        "SHA-1": partial(hashlib.sha1, usedforsecurity=False),
        "SHA-256": hashlib.sha256,
        "SHA-384": hashlib.sha384,
        "SHA-512": hashlib.sha512,
    }
)
_SIGNATURES = frozenset({Scheme.RSASSA_PKCS1, Scheme.RSASSA_PSS, Scheme.ECDSA})

COMMANDS: Mapping[tuple[Scheme, KeyOperation], tuple[int, ...]] = MappingProxyType(
    {
        **{(scheme, KeyOperation.SIGN): (int(TPM2_CC.Sign),) for scheme in _SIGNATURES},
        **{(scheme, KeyOperation.VERIFY): (int(TPM2_CC.VerifySignature),) for scheme in _SIGNATURES},
        **{
            (Scheme.HMAC, operation): (
                int(TPM2_CC.HMAC),
                int(TPM2_CC.HMAC_Start),
                int(TPM2_CC.SequenceUpdate),
                int(TPM2_CC.SequenceComplete),
            )
            for operation in (KeyOperation.SIGN, KeyOperation.VERIFY)
        },
        (Scheme.RSAES_OAEP, KeyOperation.ENCRYPT): (int(TPM2_CC.RSA_Encrypt),),
        (Scheme.RSAES_OAEP, KeyOperation.DECRYPT): (int(TPM2_CC.RSA_Decrypt),),
        (Scheme.CFB, KeyOperation.ENCRYPT): (int(TPM2_CC.EncryptDecrypt2),),
        (Scheme.CFB, KeyOperation.DECRYPT): (int(TPM2_CC.EncryptDecrypt2),),
        (Scheme.ECDH, KeyOperation.AGREE): (int(TPM2_CC.ECDH_ZGen),),
        (Scheme.HASH, KeyOperation.DIGEST): (
            int(TPM2_CC.Hash),
            int(TPM2_CC.HashSequenceStart),
            int(TPM2_CC.SequenceUpdate),
            int(TPM2_CC.SequenceComplete),
        ),
    }
)
"""What this provider can do, and the commands that the TPM must have for it."""

NO_TICKET = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
"""An unrestricted key signs any digest, so no proof that the TPM hashed it is needed."""


def does(row: Algorithm, operation: KeyOperation) -> bool:
    """Whether this provider has code for an operation of an algorithm; a given TPM may still lack it."""
    return (row.scheme, operation) in COMMANDS and row.tpm_alg is not None


def hash_id(row: Algorithm) -> int:
    """The TPM_ALG_ID of the row's hash; TPM_ALG_NULL where it has none."""
    digest = ALGORITHMS.get(row.hash)
    return (digest.tpm_alg if digest else None) or int(TPM2_ALG.NULL)


def _signature_schemes() -> dict[str, TPMT_SIG_SCHEME]:
    return {
        row.name: TPMT_SIG_SCHEME(
            scheme=row.tpm_alg, details=TPMU_SIG_SCHEME(any=TPMS_SCHEME_HASH(hashAlg=hash_id(row)))
        )
        for row in ALGORITHMS.values()
        if row.kind is Kind.SIGNATURE and does(row, KeyOperation.SIGN)
    }


def _decryption_schemes() -> dict[str, TPMT_RSA_DECRYPT]:
    return {
        row.name: TPMT_RSA_DECRYPT(
            scheme=row.tpm_alg, details=TPMU_ASYM_SCHEME(anySig=TPMS_SCHEME_HASH(hashAlg=hash_id(row)))
        )
        for row in ALGORITHMS.values()
        if row.kind is Kind.PUBLIC_KEY_ENCRYPTION and does(row, KeyOperation.DECRYPT)
    }


SIGNATURE_SCHEMES: Mapping[str, TPMT_SIG_SCHEME] = MappingProxyType(_signature_schemes())
DECRYPTION_SCHEMES: Mapping[str, TPMT_RSA_DECRYPT] = MappingProxyType(_decryption_schemes())


def digest_to_sign(row: Algorithm, message: bytes, parameters: SignatureParameters) -> bytes:
    """What the TPM signs: the hash of the message, made here, or the message where it is the digest already.

    Raises RequestError (INVALID_ARGUMENT) for parameters that the algorithm does not take.
    """
    if parameters == DEFAULT_SIGNATURE:
        return _SOFTWARE_HASHES[row.hash](message).digest()
    if parameters.context:
        raise _refused(f"{row.name} takes no context string.")
    if parameters.external_mu:
        raise _refused(f"{row.name} takes the message, not its representative.")
    if parameters.salt_length is not None and row.scheme is not Scheme.RSASSA_PSS:
        raise _refused(f"{row.name} has no salt; salt_length is for RSASSA-PSS.")
    if not parameters.digest_signing:
        return _SOFTWARE_HASHES[row.hash](message).digest()
    expected = ALGORITHMS[row.hash].output_size
    if len(message) != expected:
        raise _refused(f"{row.name} signs digests of {expected} bytes; this one has {len(message)}.")
    return bytes(message)


def check_mac_parameters(row: Algorithm, parameters: SignatureParameters) -> None:
    """Raises RequestError (INVALID_ARGUMENT): a MAC takes none."""
    if parameters != DEFAULT_SIGNATURE:
        raise _refused(f"{row.name} takes the message itself, and neither context nor salt.")


def sized(data: bytes) -> bytes:
    """A TPM2B on the wire."""
    return len(data).to_bytes(2) + data


def tpm_digest(digest: bytes) -> TPM2B_DIGEST:
    """A digest as commands take it."""
    return TPM2B_DIGEST.unmarshal(sized(digest))[0]


def signature_from_tpm(row: Algorithm, marshalled: bytes) -> bytes:
    """A marshalled TPMT_SIGNATURE in our form: DER for ECDSA, else the bytes as they are."""
    first, rest = _unsized(marshalled[4:])
    if row.scheme is not Scheme.ECDSA:
        return first
    second, _ = _unsized(rest)
    return encode_dss_signature(int.from_bytes(first), int.from_bytes(second))


def signature_to_tpm(row: Algorithm, key: KeyType, signature: bytes) -> TPMT_SIGNATURE:
    """Our form in the TPM's. Raises SignatureInvalid for what can be no signature by such a key."""
    size = field_size(key)
    if row.scheme is Scheme.ECDSA:
        try:
            numbers = decode_dss_signature(signature)
            parts = [number.to_bytes(size) for number in numbers]
        except (ValueError, OverflowError):
            raise SignatureInvalid(Status.SIGNATURE_INVALID) from None
    elif len(signature) == size:
        parts = [bytes(signature)]
    else:
        raise SignatureInvalid(Status.SIGNATURE_INVALID)
    head = (row.tpm_alg or 0).to_bytes(2) + hash_id(row).to_bytes(2)
    return TPMT_SIGNATURE.unmarshal(head + b"".join(map(sized, parts)))[0]


def point_to_tpm(x: int, y: int, size: int) -> TPM2B_ECC_POINT:
    """A point whose coordinates have `size` bytes each."""
    return TPM2B_ECC_POINT.unmarshal(sized(sized(x.to_bytes(size)) + sized(y.to_bytes(size))))[0]


def shared_x(point: TPM2B_ECC_POINT, size: int) -> bytes:
    """The shared secret of ECDH (SP 800-56A section 5.7.1.2): the x coordinate, `size` bytes, zeros kept."""
    coordinate, _ = _unsized(bytes(point.marshal())[2:])
    return coordinate.rjust(size, b"\0")


def field_size(key: KeyType) -> int:
    """Bytes of a coordinate or of the modulus."""
    return (key.bits + 7) // 8


def oaep_limit(row: Algorithm, key: KeyType) -> int:
    """The longest plaintext of OAEP (RFC 8017 section 7.1.1), in bytes."""
    return field_size(key) - 2 * ALGORITHMS[row.hash].output_size - 2


def _unsized(wire: bytes) -> tuple[bytes, bytes]:
    end = 2 + int.from_bytes(wire[:2])
    return wire[2:end], wire[end:]


def _refused(message: str) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, message)
