"""Public keys from outside that `cryptography` reads, but that are no keys.

It refuses by itself what is no SubjectPublicKeyInfo, points that are on no curve, values of another length, ML-KEM
coefficients out of range, and exponents that are even, 1 or too large; of an RSA modulus it looks at the length alone.
What is asked here besides costs microseconds: no small prime divides it (NIST SP 800-89, section 5.3.3).
"""

from math import gcd, prod
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

_K = TypeVar("_K")

_SMALL = 752
_SMALL_PRIMES = prod(number for number in range(2, _SMALL) if all(number % other for other in range(2, number)))


def is_possible(public_key: object) -> bool:
    """Whether what was read can be a public key."""
    return not isinstance(public_key, RSAPublicKey) or gcd(public_key.public_numbers().n, _SMALL_PRIMES) == 1


def checked(public_key: _K) -> _K:
    """A public key that was read, where it can be one. Raises ValueError."""
    if not is_possible(public_key):
        raise ValueError("a small prime divides the RSA modulus")
    return public_key
