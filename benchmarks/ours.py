"""Our side of the comparison: one operation of a slot's key, through the daemon."""

import itertools
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from benchmarks.workload import NotMeasured, Operation, kdf_of, payload
from hsmbridge.client import CryptoStack, KeyOperationPermission, ProviderInfo
from hsmbridge.core.algorithms import Algorithm, KeyOperation, Kind, Scheme, algorithm
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType, Maturity, key_type
from hsmbridge.core.params import AgreeKeyParams, DeriveKeyParams, Hkdf

P = KeyOperationPermission
_USES = {
    Kind.SIGNATURE: P.SIGN | P.VERIFY,
    Kind.MAC: P.SIGN | P.VERIFY,
    Kind.AEAD: P.ENCRYPT | P.DECRYPT,
    Kind.CIPHER: P.ENCRYPT | P.DECRYPT,
    Kind.PUBLIC_KEY_ENCRYPTION: P.ENCRYPT | P.DECRYPT,
    Kind.KEY_AGREEMENT: P.DERIVE,
    Kind.KEM: P.ENCAPSULATE | P.DECAPSULATE,
    Kind.KDF: P.DERIVE,
}
_DERIVED = "SECRET-256"
_Place = tuple[str, str, int, str]
"""Provider, key type, uses, and the algorithm where a slot is for one."""
_CURVES = {"EC-P256": ec.SECP256R1(), "EC-P384": ec.SECP384R1(), "EC-P521": ec.SECP521R1()}


class Ours:
    """The slots of a benchmark, made as they are needed. Keys are generated: a type that a provider only imports is not
    measured."""

    def __init__(self, stack: CryptoStack) -> None:
        self._stack = stack
        self._slots: dict[_Place, str] = {}
        self._numbers = itertools.count()

    def operation(
        self, provider: ProviderInfo, row: Algorithm, operation: KeyOperation
    ) -> tuple[Operation, KeyType | None]:
        """One call, which has worked once, and the type of its key.

        Raises NotMeasured where there is nothing to compare, or what the last type was refused with.
        """
        if row.kind is Kind.DIGEST:
            data, name = payload(row), provider.name
            return (lambda: self._stack.digest(row.name, data, provider=name)), None
        refusal: HsmBridgeError | None = None
        for candidate in candidates(provider, row):
            try:
                call = self._of(provider, row, operation, candidate)
                call()
            except HsmBridgeError as error:
                refusal = error
            else:
                return call, candidate
        raise refusal or HsmBridgeError(Status.NOT_SUPPORTED, f"{provider.name} generates no key for {row.name}.")

    def _of(self, provider: ProviderInfo, row: Algorithm, operation: KeyOperation, key: KeyType) -> Operation:
        slot = self._stack.slot(self._slot(provider, row, key))
        data = payload(row)
        match row.kind, operation:
            case Kind.SIGNATURE, KeyOperation.SIGN:
                return lambda: slot.sign(row.name, data)
            case Kind.SIGNATURE, KeyOperation.VERIFY:
                signature = slot.sign(row.name, data)
                return lambda: slot.verify(row.name, data, signature)
            case Kind.MAC, KeyOperation.SIGN:
                return lambda: slot.mac(row.name, data)
            case Kind.MAC, KeyOperation.VERIFY:
                value = slot.mac(row.name, data)
                return lambda: slot.verify_mac(row.name, data, value)
            case _, KeyOperation.ENCRYPT:
                return lambda: slot.encrypt(row.name, data)
            case _, KeyOperation.DECRYPT if row.scheme is Scheme.RSAES_PKCS1:
                foreign = self._encrypted_outside(slot.name, data)
                return lambda: slot.decrypt(row.name, foreign)
            case _, KeyOperation.DECRYPT:
                sealed = slot.encrypt(row.name, data)
                return lambda: slot.decrypt(row.name, sealed)
            case _, KeyOperation.ENCAPSULATE:
                return lambda: slot.encapsulate(row.name)
            case _, KeyOperation.DECAPSULATE:
                ciphertext = slot.encapsulate(row.name).ciphertext
                return lambda: slot.decapsulate(row.name, ciphertext)
            case _, KeyOperation.AGREE:
                if provider.scheme == "tpm":
                    raise NotMeasured("a TPM keeps no agreed secret: it becomes a version of a software slot, on disk")
                return self._agreement(slot.name, key)
            case _:
                derivation = DeriveKeyParams(key_type=_DERIVED, permissions=P.DERIVE, kdf=kdf_of(row))
                name = slot.name
                return lambda: self._stack.derive_key(name, derivation).release()

    def _encrypted_outside(self, slot: str, data: bytes) -> bytes:
        public = load_der_public_key(self._stack.show_slot(slot).versions[0].public_key)
        if not isinstance(public, rsa.RSAPublicKey):
            raise NotMeasured("the slot has no RSA key")
        return public.encrypt(data, padding.PKCS1v15())

    def _agreement(self, slot: str, key: KeyType) -> Operation:
        """Through HKDF where the provider does that, else the secret as it is; the key is given back."""
        peer = _peer(key)
        ways = [AgreeKeyParams(key_type=_DERIVED, permissions=P.DERIVE, peer_public_key=peer, kdf=Hkdf())]
        size = (key.bits + 7) // 8
        for family in (Family.SECRET, Family.AES, Family.HMAC):
            for row in KEY_TYPES.values():
                if row.family is family and row.bytes == size:
                    uses = P.SIGN & row.permissions or P.ENCRYPT
                    ways.append(AgreeKeyParams(key_type=row.name, permissions=uses, peer_public_key=peer))
        refusal: HsmBridgeError | None = None
        for way in ways:
            try:
                self._stack.agree_key(slot, way).release()
            except HsmBridgeError as error:
                refusal = error
            else:
                return lambda way=way: self._stack.agree_key(slot, way).release()  # type: ignore[misc]  # mypy and defaults
        raise refusal or HsmBridgeError(Status.NOT_SUPPORTED)

    def leave(self, provider: ProviderInfo, row: Algorithm) -> None:
        """Destroy the keys that served this algorithm alone: a token may take longer for each object that it holds."""
        claimed = [algorithm(claim.algorithm) for claim in provider.claims]
        for key in candidates(provider, row):
            alone = _for_one(row, key) or not any(other.takes(key) for other in claimed if other is not row)
            name = self._slots.pop(_place(provider, row, key), "") if alone else ""
            if name:
                self._stack.destroy(name)

    def _slot(self, provider: ProviderInfo, row: Algorithm, key: KeyType) -> str:
        """A slot for the algorithm; key pairs, which are slow to make, serve all that they can."""
        uses, place = _USES[row.kind], _place(provider, row, key)
        if place not in self._slots:
            name = f"bench-{next(self._numbers)}"
            self._stack.create_slot(
                name,
                key.name,
                uses,
                providers=[provider.name],
                algorithms=[row.name] if _for_one(row, key) and row.kind is not Kind.KDF else [],
                timeout=60,
            )
            self._slots[place] = name
        return self._slots[place]


def _place(provider: ProviderInfo, row: Algorithm, key: KeyType) -> _Place:
    return provider.name, key.name, int(_USES[row.kind]), row.name if _for_one(row, key) else ""


def _for_one(row: Algorithm, key: KeyType) -> bool:
    """Whether a slot of its own is made: pairs are slow to make, and serve all that need not be allowed by name."""
    return key.symmetric or row.maturity is not Maturity.CURRENT


def candidates(provider: ProviderInfo, row: Algorithm) -> Iterator[KeyType]:
    """Key types that the provider generates for an algorithm; those of 256 bits first where there is a choice."""
    found = [key_type(name) for name in row.key_types if name in provider.key_types]
    yield from sorted(found, key=lambda one: one.symmetric and one.family is Family.SECRET and one.bits != 256)


def _peer(key: KeyType) -> bytes:
    public: ec.EllipticCurvePublicKey | x25519.X25519PublicKey | x448.X448PublicKey
    if key.name in _CURVES:
        public = ec.generate_private_key(_CURVES[key.name]).public_key()
    elif key.name == "X25519":
        public = x25519.X25519PrivateKey.generate().public_key()
    else:
        public = x448.X448PrivateKey.generate().public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
