"""Keys of X-Wing (draft-connolly-cfrg-xwing-kem): ML-KEM-768 and X25519 as one key, and their secrets as one.

The lattice, the curve and the hashes are the library's; here is what the draft puts between them: how a seed expands,
how two ciphertexts and two secrets are joined, and the DER around a key, which the library does not know.
"""

import secrets

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA3_256, SHAKE256, Hash

_SEED = 32
_X25519 = 32
_ML_KEM_SEED = 64
_ML_KEM_PUBLIC = 1184
_ML_KEM_CIPHERTEXT = 1088
_LABEL = b"\\.//^\\"
CIPHERTEXT_SIZE = _ML_KEM_CIPHERTEXT + _X25519

# All lengths are fixed, and so is the DER in front of a key: 1.3.6.1.4.1.62253.25722 with no parameters.
_SPKI = bytes.fromhex("308204d4300d060b2b0601040183e62d81c87a038204c100")
_PKCS8 = bytes.fromhex("3034020100300d060b2b0601040183e62d81c87a0420")


class XWingPublicKey:
    """An encapsulation key."""

    __slots__ = ("ml_kem", "x25519")

    def __init__(self, ml_kem: MLKEM768PublicKey, x25519: X25519PublicKey) -> None:
        self.ml_kem = ml_kem
        self.x25519 = x25519

    def spki(self) -> bytes:
        """SubjectPublicKeyInfo in DER."""
        return _SPKI + self.ml_kem.public_bytes_raw() + self.x25519.public_bytes_raw()

    def encapsulate(self) -> tuple[bytes, bytes]:
        """(ciphertext, shared secret). Raises ValueError where the key's X25519 half yields no secret."""
        lattice_secret, lattice_ciphertext = self.ml_kem.encapsulate()
        ephemeral = X25519PrivateKey.generate()
        point = ephemeral.public_key().public_bytes_raw()
        curve_secret = ephemeral.exchange(self.x25519)
        return lattice_ciphertext + point, self.combine(lattice_secret, curve_secret, point)

    def combine(self, lattice_secret: bytes, curve_secret: bytes, point: bytes) -> bytes:
        """The shared secret, of those of the two halves and the X25519 half of the ciphertext."""
        return Hash.hash(SHA3_256(), lattice_secret + curve_secret + point + self.x25519.public_bytes_raw() + _LABEL)


class XWingPrivateKey:
    """A decapsulation key: a seed and what it expands to. The seed is overwritten when nobody uses it any more."""

    __slots__ = ("_seed", "ml_kem", "x25519")

    def __init__(self, seed: bytes) -> None:
        """Raises ValueError for a seed that has not 32 bytes."""
        if len(seed) != _SEED:
            raise ValueError("An X-Wing seed has 32 bytes.")
        self._seed = bytearray(seed)
        expanded = Hash.hash(SHAKE256(_ML_KEM_SEED + _X25519), seed)
        self.ml_kem = MLKEM768PrivateKey.from_seed_bytes(expanded[:_ML_KEM_SEED])
        self.x25519 = X25519PrivateKey.from_private_bytes(expanded[_ML_KEM_SEED:])

    def __del__(self) -> None:
        if hasattr(self, "_seed"):
            self._seed[:] = bytes(len(self._seed))

    @classmethod
    def generate(cls) -> "XWingPrivateKey":
        return cls(secrets.token_bytes(_SEED))

    def public_key(self) -> XWingPublicKey:
        return XWingPublicKey(self.ml_kem.public_key(), self.x25519.public_key())

    def pkcs8(self) -> bytes:
        """PrivateKeyInfo in DER, holding the seed."""
        return _PKCS8 + self._seed

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The shared secret. Raises ValueError for a ciphertext of wrong length or whose point yields no secret."""
        if len(ciphertext) != CIPHERTEXT_SIZE:
            raise ValueError("An X-Wing ciphertext has 1120 bytes.")
        lattice, point = ciphertext[:_ML_KEM_CIPHERTEXT], ciphertext[_ML_KEM_CIPHERTEXT:]
        curve_secret = self.x25519.exchange(X25519PublicKey.from_public_bytes(point))
        return self.public_key().combine(self.ml_kem.decapsulate(lattice), curve_secret, point)


def private_key(pkcs8: bytes) -> XWingPrivateKey | None:
    """The key in a PrivateKeyInfo, or None where it holds none of X-Wing."""
    if not pkcs8.startswith(_PKCS8) or len(pkcs8) != len(_PKCS8) + _SEED:
        return None
    return XWingPrivateKey(pkcs8[len(_PKCS8) :])


def public_key(spki: bytes) -> XWingPublicKey | None:
    """The key in a SubjectPublicKeyInfo, or None where it holds none of X-Wing. Raises ValueError for a bad one."""
    if not spki.startswith(_SPKI) or len(spki) != len(_SPKI) + _ML_KEM_PUBLIC + _X25519:
        return None
    key = spki[len(_SPKI) :]
    return XWingPublicKey(
        MLKEM768PublicKey.from_public_bytes(key[:_ML_KEM_PUBLIC]),
        X25519PublicKey.from_public_bytes(key[_ML_KEM_PUBLIC:]),
    )
