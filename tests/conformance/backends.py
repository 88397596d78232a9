"""The real thing behind each provider: started once a session, opened and closed as often as a test needs it."""

import os
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsmbridge.core.errors import Status, StoreError
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.base import Provider

_ROOT = Path(__file__).resolve().parents[2]
_SOFTHSM_MODULE = "/usr/lib/softhsm/libsofthsm2.so"


class Backend(ABC):
    """One token, TPM or seal in a directory of its own; `open` may be called again after the provider was closed."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))

    @abstractmethod
    def open(self) -> Provider: ...

    def stop(self) -> None:
        rmtree(self.directory)


class Software(Backend):
    """No token, but a seal whose key outlives the provider."""

    def __init__(self) -> None:
        super().__init__()
        self._seal = AesGcmSeal(AESGCM.generate_key(256))

    def open(self) -> Provider:
        from hsmbridge.providers.software import SoftwareProvider

        return SoftwareProvider(self._seal)


class SoftHsm(Backend):
    """A SoftHSM token."""

    LABEL = "conformance"

    def __init__(self) -> None:
        super().__init__()
        _run(_ROOT / "softhsm-config" / "provision", self.directory / "token", self.LABEL)

    def open(self) -> Provider:
        from hsmbridge.providers.pkcs11 import Pkcs11Settings, open_pkcs11

        # The module reads it when it is loaded, in this process.
        os.environ["SOFTHSM2_CONF"] = str(self.directory / "token" / "softhsm2.conf")
        pin = Pin((self.directory / "token" / "pin").read_text())
        return open_pkcs11(Pkcs11Settings(module=_SOFTHSM_MODULE, token=self.LABEL), pin)


class Tpm(Backend):
    """A TPM simulator."""

    def __init__(self) -> None:
        super().__init__()
        self.tcti = _run(_ROOT / "tpm-sim" / "start", self.directory / "tpm").strip()

    def open(self) -> Provider:
        from hsmbridge.providers.tpm import TpmSettings, open_tpm

        return open_tpm(TpmSettings(tcti=self.tcti))

    def stop(self) -> None:
        _run(_ROOT / "tpm-sim" / "stop", self.directory / "tpm")
        super().stop()


class AesGcmSeal:
    """A MaterialSeal as the store has one, under a key of its own."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, material: bytes, binding: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, material, binding)

    def open(self, sealed: bytes, binding: bytes) -> bytes:
        try:
            return self._cipher.decrypt(sealed[:12], sealed[12:], binding)
        except (InvalidTag, ValueError):
            raise StoreError(Status.STORE_TAMPERED) from None


def _run(*command: Path | str) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr}"
    return done.stdout


BACKENDS: Mapping[str, type[Backend]] = {"software": Software, "softhsm": SoftHsm, "tpm": Tpm}
