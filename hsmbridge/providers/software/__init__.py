"""Keys in software: pyca/cryptography, with the material sealed in the store.

A persistent key has no home here: `generate` answers the key encrypted under the store's master key as its
reference, and who loses the reference has lost the key. An ephemeral key lives in this process alone.

What adding an algorithm takes: its row in `hsmbridge.core.algorithms`, and nothing here where its scheme is known
to `schemes`. What a row needs of the cryptography library is tried once (`probe`); a row that fails is not claimed.

What is zeroised, and what cannot be: the long-lived copy of a secret key is a bytearray that is overwritten when its
last user lets go, and OpenSSL cleanses the private keys and key schedules that it frees. Python's own bytes objects,
through which material comes out of the store, a key agreement or the random generator and into and out of wrapping, and
the PKCS#8 form of a private key on its way into the store, are freed without being overwritten. A memory dump of the
daemon shows software keys in use in any case; keys that must not be found there belong on a token or a TPM.
"""

from hsmbridge.providers.software.provider import SoftwareProvider

__all__ = ["SoftwareProvider"]
