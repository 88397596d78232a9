"""The parameter sets that this provider knows, with the sizes of FIPS 203 and FIPS 204 in bytes.

A library whose sizes differ has something else under the name, and is not believed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """Sizes in bytes.

    Attributes:
        public: of the public key.
        private: of the expanded private key (decapsulation key, FIPS 203; private key, FIPS 204).
        output: of a ciphertext or signature.
        public_at: where the private key holds the public one, or None where it does not.
        seed: that the library can make a key pair of, or 0.
    """

    public: int
    private: int
    output: int
    public_at: int | None = None
    seed: int = 0


PARAMETER_SETS: Mapping[str, ParameterSet] = MappingProxyType(
    {
        "ML-DSA-44": ParameterSet(1312, 2560, 2420),
        "ML-DSA-65": ParameterSet(1952, 4032, 3309),
        "ML-DSA-87": ParameterSet(2592, 4896, 4627),
        "ML-KEM-512": ParameterSet(800, 1632, 768, public_at=768, seed=64),
        "ML-KEM-768": ParameterSet(1184, 2400, 1088, public_at=1152, seed=64),
        "ML-KEM-1024": ParameterSet(1568, 3168, 1568, public_at=1536, seed=64),
    }
)
"""By the name that the standard, our tables and liboqs all give them."""
