"""Keys in slots as private-key objects of the `cryptography` package, for every library that takes those.

    from hsmbridge.client.pyca import private_key

    key = private_key(stack, "web")
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())

The objects implement cryptography's own abstract classes; each signature, decryption and decapsulation is a call to
the daemon, and nothing of the private key is ever in this process. Not imported by `hsmbridge.client` itself.
"""

from hsmbridge.client.pyca.keys import ServicePrivateKey, private_key

__all__ = ["ServicePrivateKey", "private_key"]
