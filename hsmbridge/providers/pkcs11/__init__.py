"""PKCS#11 tokens as a provider. `open_pkcs11` makes one."""

from hsmbridge.providers.pkcs11.opening import open_pkcs11
from hsmbridge.providers.pkcs11.provider import Pkcs11Provider
from hsmbridge.providers.pkcs11.settings import Pkcs11Settings, settings_from_uri

__all__ = ["Pkcs11Provider", "Pkcs11Settings", "open_pkcs11", "settings_from_uri"]
