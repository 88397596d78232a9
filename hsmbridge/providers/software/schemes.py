"""The schemes of the algorithm table that software has. A row whose scheme is here needs nothing more."""

from collections.abc import Mapping
from types import MappingProxyType

from hsmbridge.core.algorithms import Scheme
from hsmbridge.providers.software import agreement, ciphers, hpke, macs, signatures, wrapping
from hsmbridge.providers.software.bound_key import BoundKey

SCHEMES: Mapping[Scheme, type[BoundKey]] = MappingProxyType(
    {
        Scheme.RSASSA_PKCS1: signatures.RsaPkcs1,
        Scheme.RSASSA_PSS: signatures.RsaPss,
        Scheme.ECDSA: signatures.Ecdsa,
        Scheme.EDDSA: signatures.EdDsa,
        Scheme.ML_DSA: signatures.MlDsa,
        Scheme.HMAC: macs.Hmac,
        Scheme.CMAC: macs.Cmac,
        Scheme.GCM: ciphers.Gcm,
        Scheme.CCM: ciphers.Ccm,
        Scheme.CHACHA20_POLY1305: ciphers.ChaCha20Poly1305,
        Scheme.CBC: ciphers.Cbc,
        Scheme.CTR: ciphers.Ctr,
        Scheme.CFB: ciphers.Cfb,
        Scheme.RSAES_OAEP: ciphers.RsaOaep,
        Scheme.RSAES_PKCS1: ciphers.RsaPkcs1,
        Scheme.ECDH: agreement.Ecdh,
        Scheme.XDH: agreement.Xdh,
        Scheme.ML_KEM: agreement.MlKem,
        Scheme.X_WING: agreement.XWing,
        Scheme.HPKE: hpke.Hpke,
        Scheme.KEY_WRAP: wrapping.AesKw,
        Scheme.KEY_WRAP_PADDED: wrapping.AesKwp,
        Scheme.RSA_AES_KEY_WRAP: wrapping.RsaAesKeyWrap,
    }
)
