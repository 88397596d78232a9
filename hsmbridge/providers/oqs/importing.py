"""Keys given in the clear: which forms liboqs can work on, and whether what is given is one key.

spki   the public key alone
pkcs8  an expanded key (RFC 9881, RFC 9935). One of ML-DSA needs its public key beside it (RFC 5958), or its seed.
       A seed alone does for ML-KEM.
raw    the decapsulation key of ML-KEM as FIPS 203 encodes it
"""

from collections.abc import Callable, Mapping
from hmac import compare_digest
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric import mldsa

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.providers.oqs import encodings
from hsmbridge.providers.oqs.library import Library
from hsmbridge.providers.oqs.material import OqsKey
from hsmbridge.providers.oqs.mechanisms import SCHEMES, expand
from hsmbridge.providers.oqs.parameter_sets import PARAMETER_SETS

_TRIAL = b"hsmbridge: do these halves belong together?"


def from_clear(library: Library, row: KeyType, format_: str, material: bytes) -> OqsKey:
    """A key that a caller gives. Raises RequestError (INVALID_ARGUMENT, KEY_TYPE_MISMATCH)."""
    read = _FORMATS.get(format_)
    if read is None:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"A key is imported as one of {', '.join(_FORMATS)}, not {format_[:16]!r}."
        )
    try:
        key = read(library, row, material)
    except ValueError as error:
        raise _refused(
            f"The material is not a key of type {row.name} in {format_} form that can be read.", repr(error)
        ) from None
    check_pair(library, key)
    return key


def check_pair(library: Library, key: OqsKey) -> None:
    """Use both halves, so that a broken key is refused now. Raises RequestError (INVALID_ARGUMENT)."""
    row = algorithm(key.row.name)
    bound = SCHEMES[row.scheme](library, key, row)
    try:
        if key.row.family is Family.ML_KEM:
            made = bound.encapsulate()
            fits = key.private is None or compare_digest(bound.decapsulate(made.ciphertext), made.secret)
        else:
            if key.private is not None:
                bound.verify(_TRIAL, bound.sign(_TRIAL, DEFAULT_SIGNATURE), DEFAULT_SIGNATURE)
            fits = True
    except HsmBridgeError as problem:
        raise _refused(f"The material is no working key of type {row.name}.", repr(problem)) from None
    if not fits:
        raise _refused("The private and the public half of the key do not belong together.")


def _public(_library: Library, row: KeyType, spki: bytes) -> OqsKey:
    oid, public = encodings.decode_public_key(spki)
    _check_type(row, oid)
    return OqsKey(row, public, None)


def _private(library: Library, row: KeyType, pkcs8: bytes) -> OqsKey:
    fields = encodings.decode_private_key(pkcs8)
    _check_type(row, fields.oid)
    key = _of_fields(library, row, fields)
    if fields.public and fields.public != key.public:
        raise _refused("The private and the public half of the key do not belong together.")
    return key


def _of_fields(library: Library, row: KeyType, fields: encodings.PrivateKeyFields) -> OqsKey:
    if row.family is Family.ML_KEM:
        if not fields.seed:
            return _raw(library, row, fields.expanded)
        key = expand(library, row, fields.seed)
        if fields.expanded and not (key.private and compare_digest(key.private, fields.expanded)):
            raise _refused("The seed and the expanded key are not one key.")
        return key
    if not fields.expanded:
        raise _refused(
            f"liboqs makes no {row.name} key of a seed; give the expanded key (RFC 9881, `expandedKey` or `both`), or"
            " import it with a software provider."
        )
    if not fields.public and not fields.seed:
        raise _refused(
            f"An expanded key of {row.name} does not hold its public key; give both (`publicKey` of RFC 5958)."
        )
    return OqsKey(row, fields.public or _ML_DSA_PUBLIC[row.name](fields.seed), bytearray(fields.expanded))


def _raw(_library: Library, row: KeyType, private: bytes) -> OqsKey:
    sizes = PARAMETER_SETS[row.name]
    if sizes.public_at is None:
        raise _refused(f"A raw private key of {row.name} does not hold its public key; give both as pkcs8.")
    if len(private) != sizes.private:
        raise ValueError("a private key of another size")
    return OqsKey(row, private[sizes.public_at :][: sizes.public], bytearray(private))


def _check_type(row: KeyType, oid: str) -> None:
    if oid != row.spki_oid:
        raise RequestError(Status.KEY_TYPE_MISMATCH, f"The imported key is not of type {row.name}.")


def _refused(message: str, origin: str = "") -> HsmBridgeError:
    return RequestError(Status.INVALID_ARGUMENT, message, origin=origin)


_FORMATS: Mapping[str, Callable[[Library, KeyType, bytes], OqsKey]] = MappingProxyType(
    {"raw": _raw, "pkcs8": _private, "spki": _public}
)
_ML_DSA_PUBLIC: Mapping[str, Callable[[bytes], bytes]] = MappingProxyType(
    {
        "ML-DSA-44": lambda seed: mldsa.MLDSA44PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw(),
        "ML-DSA-65": lambda seed: mldsa.MLDSA65PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw(),
        "ML-DSA-87": lambda seed: mldsa.MLDSA87PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw(),
    }
)
"""The public key of a seed, by pyca/cryptography."""
