"""Post-quantum keys in software by liboqs: ML-KEM (FIPS 203) and ML-DSA (FIPS 204), through liboqs-python.

Beside the software provider it has ML-KEM-512, and ML-DSA several times as fast. Which rows there are is asked of the
library that is found, and each is tried once before it is claimed. Algorithms that a library has only in a form before
its standard (Kyber, Dilithium, round 3 of SPHINCS+) are no rows of the table and are not offered under the name of one.

Keys are kept like the software provider's: sealed under the store's master key, used in the memory of the daemon. What
is kept differs: liboqs works on expanded private keys and cannot make them of a seed (ML-DSA), nor give the seed back,
so a version of a slot stays with the provider that made it.

What is zeroised, and what cannot be: the long-lived copy of a private key is a bytearray that is overwritten when its
last user lets go, and the copy that a single call is given is cleansed when the call ends. Python's own bytes objects,
through which a key comes out of the store and goes into it, and shared secrets, are freed without being overwritten.
"""

from hsmbridge.providers.oqs.library import load_library
from hsmbridge.providers.oqs.provider import OqsProvider

__all__ = ["OqsProvider", "load_library"]
