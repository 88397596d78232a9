"""What the provider's callbacks work on: keys, and signatures under way, each under a number.

libcrypto hands a callback back what another one gave it, and looks into none of it. So these are numbers and no
addresses: a wrong one is not in the table, and the callback that gets it fails.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Generic, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from hsmbridge.client.tls.openssl import Address
from hsmbridge.core.errors import RequestError, Status

DIGESTS: Final = {
    **dict.fromkeys((b"SHA256", b"SHA2-256"), hashes.SHA256()),
    **dict.fromkeys((b"SHA384", b"SHA2-384"), hashes.SHA384()),
    **dict.fromkeys((b"SHA512", b"SHA2-512"), hashes.SHA512()),
}
"""The digests that TLS signs over, by the names that libcrypto gives them."""

GROUPS: Final = {"secp256r1": b"prime256v1", "secp384r1": b"secp384r1", "secp521r1": b"secp521r1"}
"""The curves of TLS: how cryptography and libcrypto name them."""

TlsPrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_Item = TypeVar("_Item")


class Numbered(Generic[_Item]):
    """Items under numbers that are never used twice. Safe for any number of threads."""

    def __init__(self) -> None:
        self._items: dict[int, _Item] = {}
        self._numbers = count(1)

    def add(self, item: _Item) -> int:
        number = next(self._numbers)
        self._items[number] = item
        return number

    def get(self, number: Address) -> _Item:
        """Raises KeyError."""
        return self._items[number or 0]

    def replace(self, number: Address, item: _Item) -> None:
        self._items[number or 0] = item

    def drop(self, number: Address) -> None:
        self._items.pop(number or 0, None)

    def __len__(self) -> int:
        return len(self._items)


class ProvidedKey:
    """A private key as the provider offers it to libssl.

    Attributes:
        private_key: signs.
        report: takes what came of each signature: None, or the exception.
    """

    def __init__(self, private_key: TlsPrivateKey, report: Callable[[BaseException | None], None]) -> None:
        """Raises RequestError (NOT_SUPPORTED) for a curve that TLS does not have."""
        self.private_key = private_key
        self.report = report
        if isinstance(private_key, ec.EllipticCurvePrivateKey) and private_key.curve.name not in GROUPS:
            raise RequestError(Status.NOT_SUPPORTED, f"TLS has no signatures on the curve {private_key.curve.name}.")

    @property
    def bits(self) -> int:
        return self.private_key.key_size

    @property
    def security_bits(self) -> int:
        """As libcrypto counts them (SP 800-57 part 1, table 2)."""
        if isinstance(self.private_key, ec.EllipticCurvePrivateKey):
            return min(self.bits // 2, 256)
        return 112 if self.bits < 3072 else 128 if self.bits < 7680 else 192

    @property
    def group(self) -> bytes | None:
        """The curve; None for RSA."""
        return GROUPS[self.private_key.curve.name] if isinstance(self.private_key, ec.EllipticCurvePrivateKey) else None

    @property
    def largest_signature(self) -> int:
        """Bytes: of RSA, those of the modulus; of ECDSA, two INTEGERs in a SEQUENCE, in DER."""
        size = (self.bits + 7) // 8
        return size if isinstance(self.private_key, rsa.RSAPrivateKey) else 2 * (size + 3) + 3

    def sign(self, message: bytes, digest: hashes.HashAlgorithm, pss: bool) -> bytes:
        """A signature as TLS carries it; the salt of PSS is as long as the digest (RFC 8446 section 4.2.3)."""
        if isinstance(self.private_key, ec.EllipticCurvePrivateKey):
            return self.private_key.sign(message, ec.ECDSA(digest))
        if pss:
            scheme = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
            return self.private_key.sign(message, scheme, digest)
        return self.private_key.sign(message, padding.PKCS1v15(), digest)


@dataclass(slots=True)
class Signing:
    """A signature under way."""

    key: ProvidedKey | None = None
    digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)
    pss: bool = False


keys: Final[Numbered[ProvidedKey | None]] = Numbered()
signings: Final[Numbered[Signing]] = Numbered()
arriving: Final[Numbered[ProvidedKey]] = Numbered()
"""Keys on their way from Python through EVP_PKEY_fromdata to the provider."""
