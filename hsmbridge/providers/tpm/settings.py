"""Where a TPM is and which of its objects is ours, as the operator writes it."""

import re

import msgspec

from hsmbridge.core.errors import RequestError, Status

DEFAULT_SRK_HANDLE = 0x81000001
"""Where the TCG's provisioning guidance and operating systems keep the storage root key."""

_NAME = re.compile(r"(?:[0-9a-fA-F]{2}){22,66}")
"""Of a key: two bytes that name the hash, and the hash of its public area."""
_OWNER_PERSISTENT = range(0x81000000, 0x81800000)
_SIMULATORS = frozenset({"swtpm", "mssim", "libtpms"})
_DRIVERS = _SIMULATORS | {"device", "tabrmd"}
"""The TCTI loader would also take the name of any library, and `cmd` with a command line to run."""


class TpmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One TPM.

    Attributes:
        tcti: how to reach it, as in TPM2TOOLS_TCTI: "swtpm:path=SOCKET", "device:/dev/tpmrm0", "tabrmd".
        srk_handle: the persistent handle of the storage root key; the key is made there once if nothing is.
        srk_name: the TPM's name of that key in hexadecimal, where it is to be that one and no other; "" takes any.
        parameter_encryption: whether what is secret in commands and answers is encrypted on the way to the TPM.
    """

    tcti: str
    srk_handle: int = DEFAULT_SRK_HANDLE
    srk_name: str = ""
    parameter_encryption: bool = False

    def __post_init__(self) -> None:
        if self.driver not in _DRIVERS:
            raise RequestError(
                Status.INVALID_CONFIGURATION,
                f"tcti begins with one of {', '.join(sorted(_DRIVERS))}, not {self.driver[:32]!r}; write it like"
                " device:/dev/tpmrm0 or swtpm:path=SOCKET.",
            )
        if self.srk_handle not in _OWNER_PERSISTENT:
            raise RequestError(
                Status.INVALID_CONFIGURATION,
                f"srk_handle {self.srk_handle:#x} is not a persistent handle of the owner (0x81000000 to 0x817fffff).",
            )
        if self.srk_name and not _NAME.fullmatch(self.srk_name):
            raise RequestError(
                Status.INVALID_CONFIGURATION,
                "srk_name is the name of a key in hexadecimal, as tpm2_readpublic shows it: 68 digits for SHA-256.",
            )

    @property
    def driver(self) -> str:
        """The TCTI's name: what stands before the first colon."""
        return self.tcti.partition(":")[0]

    @property
    def device_path(self) -> str:
        """The device file that is named, or ""."""
        driver, _, configuration = self.tcti.partition(":")
        return configuration if driver == "device" else ""

    @property
    def managed(self) -> bool:
        """Whether a resource manager gives each client object slots of its own and frees them when it ends."""
        return self.driver == "tabrmd" or "/tpmrm" in self.device_path

    @property
    def simulated(self) -> bool:
        """Whether no kernel stands before the TPM that would send it TPM2_Shutdown."""
        return self.driver in _SIMULATORS
