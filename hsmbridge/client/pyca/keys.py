"""Which private-key object a key of the service becomes."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmbridge.client.guards import CryptoResourceGuard
from hsmbridge.client.key_formats.asymmetric import type_of_spki
from hsmbridge.client.keys import Key, slot_name
from hsmbridge.client.pyca import edwards_keys, postquantum_keys
from hsmbridge.client.pyca.ec_key import ServiceEcPrivateKey
from hsmbridge.client.pyca.rsa_key import ServiceRsaPrivateKey
from hsmbridge.client.stack import CryptoStack
from hsmbridge.core.errors import KeyUseError, RequestError, Status
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.lifecycle import KeyVersionState

_Signing = (
    ServiceRsaPrivateKey
    | ServiceEcPrivateKey
    | edwards_keys.ServiceEd25519PrivateKey
    | edwards_keys.ServiceEd448PrivateKey
    | postquantum_keys.ServiceMlDsa44PrivateKey
    | postquantum_keys.ServiceMlDsa65PrivateKey
    | postquantum_keys.ServiceMlDsa87PrivateKey
)
_Agreeing = edwards_keys.ServiceX25519PrivateKey | edwards_keys.ServiceX448PrivateKey
_Encapsulated = postquantum_keys.ServiceMlKem768PrivateKey | postquantum_keys.ServiceMlKem1024PrivateKey

ServicePrivateKey = _Signing | _Agreeing | _Encapsulated
"""Each is an instance of cryptography's class for its kind of key too: tell them apart with isinstance or match."""


def private_key(stack: CryptoStack, key: Key) -> ServicePrivateKey:
    """A key pair of the service as a private-key object of cryptography.

    Of a slot, the object stands for the version that is active now, and for that one only: once the slot was
    rotated it decrypts still and signs no more. An object of a guard does not keep it: it lives as long as the guard.

    Args:
        stack: makes the calls, as long as the object is used.
        key: a slot's name or handle, or a guard.

    Raises:
        ResourceError: RESOURCE_NOT_FOUND.
        KeyUseError: KEY_STATE_FORBIDS, where the slot has no active version.
        RequestError: NOT_SUPPORTED for secret keys, and for key types that cryptography has no class for.
    """
    version, spki = _public_half(stack, key)
    if not spki:
        raise RequestError(Status.NOT_SUPPORTED, "This is a secret key; private-key objects are made of key pairs.")
    row = type_of_spki(spki)
    public: PublicKeyTypes | None
    try:
        public = load_der_public_key(spki)
    except (UnsupportedAlgorithm, ValueError):
        public = None
    made = _signing(stack, key, version, row, public) or _opening(stack, key, version, row, public)
    if made is None:
        raise RequestError(Status.NOT_SUPPORTED, f"The cryptography package has no class for {row.name} keys.")
    return made


def _signing(
    stack: CryptoStack, key: Key, version: int, row: KeyType, public: PublicKeyTypes | None
) -> _Signing | None:
    match public:
        case rsa.RSAPublicKey():
            return ServiceRsaPrivateKey(stack, key, version, row, public)
        case ec.EllipticCurvePublicKey():
            return ServiceEcPrivateKey(stack, key, version, row, public)
        case ed25519.Ed25519PublicKey():
            return edwards_keys.ServiceEd25519PrivateKey(stack, key, version, row, public)
        case ed448.Ed448PublicKey():
            return edwards_keys.ServiceEd448PrivateKey(stack, key, version, row, public)
        case mldsa.MLDSA44PublicKey():
            return postquantum_keys.ServiceMlDsa44PrivateKey(stack, key, version, row, public)
        case mldsa.MLDSA65PublicKey():
            return postquantum_keys.ServiceMlDsa65PrivateKey(stack, key, version, row, public)
        case mldsa.MLDSA87PublicKey():
            return postquantum_keys.ServiceMlDsa87PrivateKey(stack, key, version, row, public)
        case _:
            return None


def _opening(
    stack: CryptoStack, key: Key, version: int, row: KeyType, public: PublicKeyTypes | None
) -> _Agreeing | _Encapsulated | None:
    match public:
        case x25519.X25519PublicKey():
            return edwards_keys.ServiceX25519PrivateKey(stack, key, version, row, public)
        case x448.X448PublicKey():
            return edwards_keys.ServiceX448PrivateKey(stack, key, version, row, public)
        case mlkem.MLKEM768PublicKey():
            return postquantum_keys.ServiceMlKem768PrivateKey(stack, key, version, row, public)
        case mlkem.MLKEM1024PublicKey():
            return postquantum_keys.ServiceMlKem1024PrivateKey(stack, key, version, row, public)
        case _:
            return None


def _public_half(stack: CryptoStack, key: Key) -> tuple[int, bytes]:
    if isinstance(key, CryptoResourceGuard):
        return 0, key.public_key
    name = slot_name(key)
    if not name:
        raise RequestError(Status.INVALID_ARGUMENT, "A private-key object is made of a slot or of a guard.")
    for version in stack.show_slot(name).versions:
        if version.state == KeyVersionState.ACTIVE:
            return version.number, version.public_key
    raise KeyUseError(Status.KEY_STATE_FORBIDS, f"Slot {name!r} has no active key version.")
