"""Which provider stands behind a URI: its scheme chooses, and everything heavy is imported only then.

    software:                                  keys in software
    oqs: or oqs:/opt/liboqs                    post-quantum keys in software, by the liboqs there
    pkcs11:token=web?module-path=/usr/lib/...  a PKCS#11 token (RFC 7512)
    tpm:device:/dev/tpmrm0                     a TPM 2.0, by its TCTI

Not a plug-in system: a new back end is a branch here, and a sentence where its library is missing.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final

import msgspec

from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.core.identifiers import check_provider_name
from hsmbridge.core.protocols import MaterialSeal
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.base import Provider

SEALED_SCHEMES: Final = frozenset({"software", "oqs"})
"""Schemes whose keys are sealed under the store's master key, so that they run inside the daemon."""
MAX_THREADS = 64
"""Calls that one daemon process may have under way in one provider."""


@unique
class Isolation(StrEnum):
    """Where a provider runs: in a host process of its own, or on threads of every daemon process."""

    PROCESS = "process"
    THREAD = "thread"


class ProviderSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One configured provider, without its PIN.

    Attributes:
        name: of the instance; slots refer to it.
        uri: what and where; see the top of this module.
        isolation: in a process of its own or not.
        threads: calls that one daemon process may have under way in it.
        sessions: the most sessions that a token is asked for.
        module_arguments: what a PKCS#11 module is told when it is initialised (pReserved).
        srk_handle: the persistent handle of a TPM's storage root key; None takes the usual one.
        srk_name: the name of that key in hexadecimal, where it is to be that one; "" takes any.
        parameter_encryption: whether a TPM's commands carry secrets encrypted.
        environment: variables that the module or library reads (SOFTHSM2_CONF), set in the host process only. They
            are no place for secrets.
    """

    name: str
    uri: str
    isolation: Isolation = Isolation.PROCESS
    threads: int = 4
    sessions: int = 8
    module_arguments: str = ""
    srk_handle: int | None = None
    srk_name: str = ""
    parameter_encryption: bool = False
    environment: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_provider_name(self.name)
        if not 1 <= self.threads <= MAX_THREADS:
            raise RequestError(
                Status.INVALID_CONFIGURATION, f"`threads` is 1 to {MAX_THREADS}; this is {self.threads}."
            )

    @property
    def scheme(self) -> str:
        """What stands before the URI's first colon, in lower case."""
        return self.uri.partition(":")[0].lower()


def open_provider(spec: ProviderSpec, pin: Pin | None = None, seal: MaterialSeal | None = None) -> Provider:
    """The provider that a specification describes, logged in and ready.

    Args:
        spec: what to open.
        pin: the user PIN of a token.
        seal: keeps the material of keys that have no token; only the daemon has one.

    Raises:
        RequestError: INVALID_CONFIGURATION for an unknown scheme, settings that cannot be right, a missing library.
        ProviderError: TOKEN_NOT_PRESENT, PIN_INCORRECT, PIN_LOCKED, PROVIDER_UNAVAILABLE, as the back end answers.
    """
    opener = _OPENERS.get(spec.scheme)
    if opener is None:
        known = ", ".join(f"{scheme}:" for scheme in _OPENERS)
        raise _unusable(spec, f"has a URI that begins with none of {known}")
    try:
        return opener(spec, pin, seal)
    except ImportError as missing:
        raise _unusable(spec, f"needs the Python package {_PACKAGES[spec.scheme]}; install it", missing) from missing


def _open_software(spec: ProviderSpec, pin: Pin | None, seal: MaterialSeal | None) -> Provider:
    from hsmbridge.providers.software import SoftwareProvider

    return SoftwareProvider(_required_seal(spec, pin, seal))


def _open_oqs(spec: ProviderSpec, pin: Pin | None, seal: MaterialSeal | None) -> Provider:
    required = _required_seal(spec, pin, seal)
    from hsmbridge.providers.oqs import OqsProvider, load_library

    return OqsProvider(required, load_library(spec.uri.partition(":")[2]))


def _required_seal(spec: ProviderSpec, pin: Pin | None, seal: MaterialSeal | None) -> MaterialSeal:
    if pin is not None:
        raise _unusable(spec, "takes no PIN: software keys stand under the store's master key")
    if seal is None:
        raise _unusable(spec, "runs inside the daemon, which holds the store's master key: write isolation = thread")
    return seal


def _open_pkcs11(spec: ProviderSpec, pin: Pin | None, _: MaterialSeal | None) -> Provider:
    from hsmbridge.providers.pkcs11 import open_pkcs11, settings_from_uri

    return open_pkcs11(settings_from_uri(spec.uri, sessions=spec.sessions, module_arguments=spec.module_arguments), pin)


def _open_tpm(spec: ProviderSpec, pin: Pin | None, _: MaterialSeal | None) -> Provider:
    if pin is not None:
        raise _unusable(spec, "takes no PIN: its keys have authorisation values of their own")
    from hsmbridge.providers.tpm import DEFAULT_SRK_HANDLE, TpmSettings, open_tpm

    return open_tpm(
        TpmSettings(
            tcti=spec.uri.partition(":")[2],
            srk_handle=DEFAULT_SRK_HANDLE if spec.srk_handle is None else spec.srk_handle,
            srk_name=spec.srk_name,
            parameter_encryption=spec.parameter_encryption,
        )
    )


_Opener = Callable[[ProviderSpec, Pin | None, MaterialSeal | None], Provider]
_OPENERS: Mapping[str, _Opener] = MappingProxyType(
    {"software": _open_software, "oqs": _open_oqs, "pkcs11": _open_pkcs11, "tpm": _open_tpm}
)
_PACKAGES: Mapping[str, str] = MappingProxyType(
    {"software": "cryptography", "oqs": "liboqs-python", "pkcs11": "python-pkcs11", "tpm": "tpm2-pytss"}
)


def _unusable(spec: ProviderSpec, why: str, cause: BaseException | None = None) -> HsmBridgeError:
    return RequestError(
        Status.INVALID_CONFIGURATION, f"Provider {spec.name} {why}.", origin="" if cause is None else repr(cause)
    )
