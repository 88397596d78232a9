"""One SoftHSM token, one simulated TPM: each in a directory of its own, made and ended by the standalone scripts.

Neither sets anything globally: a process reaches them through the variables of `environment`, or by URI and TCTI.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hsmbridge.core.pkcs11_uri import Pkcs11Uri, format_uri
from hsmbridge.lab.resources import require_swtpm, run_script, script, softhsm_module


@dataclass(frozen=True, slots=True)
class SoftHsmToken:
    """A private SoftHSM token.

    Attributes:
        directory: holds everything of it.
        label: of the token.
    """

    directory: Path
    label: str

    @classmethod
    def make(cls, directory: Path, label: str) -> Self:
        """Make the token; where it is there already, nothing changes. Raises RequestError, saying what is missing."""
        run_script(script("softhsm-config", "provision"), "--module", softhsm_module(), directory, label)
        return cls(directory, label)

    @property
    def module(self) -> Path:
        """Path of the PKCS#11 module."""
        return softhsm_module()

    @property
    def configuration(self) -> Path:
        """What SOFTHSM2_CONF has to name."""
        return self.directory / "softhsm2.conf"

    @property
    def pin_file(self) -> Path:
        """Holds the user PIN, without a newline; only the owner can read it."""
        return self.directory / "pin"

    @property
    def so_pin_file(self) -> Path:
        """Holds the PIN of the security officer."""
        return self.directory / "so-pin"

    @property
    def uri(self) -> str:
        """The token as a PKCS#11 URI (RFC 7512) with its module, as a provider of hsmbridge is named."""
        return format_uri(Pkcs11Uri(token=self.label, module_path=str(self.module)))

    @property
    def environment(self) -> Mapping[str, str]:
        """The variable that the module reads."""
        return {"SOFTHSM2_CONF": str(self.configuration)}


@dataclass(frozen=True, slots=True)
class Swtpm:
    """A simulated TPM 2.0. Its seeds and persistent objects outlive stop, kill and restart.

    Attributes:
        directory: holds everything of it; its path must be short (a unix socket's path has 107 bytes at most).
    """

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Self:
        """Start a TPM; where it runs already, nothing changes. Raises RequestError, saying what is missing."""
        require_swtpm()
        rig = cls(directory)
        rig.start()
        return rig

    @property
    def tcti(self) -> str:
        """How tpm2-tools, tpm2-openssl and hsmbridge reach it."""
        return f"swtpm:path={self.directory / 'swtpm.sock'}"

    @property
    def uri(self) -> str:
        """It as a provider of hsmbridge."""
        return f"tpm:{self.tcti}"

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that tpm2-tools and OpenSSL's tpm2 provider read."""
        return {"TPM2TOOLS_TCTI": self.tcti, "TPM2OPENSSL_TCTI": self.tcti}

    def start(self) -> None:
        """Start it where it does not run."""
        run_script(script("tpm-sim", "start"), self.directory)

    def stop(self) -> None:
        """Shut it down in order."""
        run_script(script("tpm-sim", "stop"), self.directory)

    def kill(self) -> None:
        """Cut it off, as a power failure does."""
        run_script(script("tpm-sim", "stop"), "--kill", self.directory)

    def restart(self) -> None:
        """Stop and start it, like a machine's reboot: loaded keys and sessions are gone."""
        run_script(script("tpm-sim", "restart"), self.directory)
