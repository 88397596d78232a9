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
LIBOQS = _ROOT / ".liboqs"
_SOFTHSM_MODULE = "/usr/lib/softhsm/libsofthsm2.so"
_SOFTOKN_MODULE = "/usr/lib/x86_64-linux-gnu/libsoftokn3.so"
KRYOPTIC_MODULE = _ROOT / ".kryoptic" / "libkryoptic_pkcs11.so"


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


class Oqs(Backend):
    """The liboqs that `./dev liboqs` builds, and a seal whose key outlives the provider."""

    def __init__(self) -> None:
        super().__init__()
        self._seal = AesGcmSeal(AESGCM.generate_key(256))

    def open(self) -> Provider:
        from hsmbridge.providers.oqs import OqsProvider, load_library

        return OqsProvider(self._seal, load_library(str(LIBOQS)))


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


class Softokn(Backend):
    """A database of NSS."""

    LABEL = "conformance"

    def __init__(self) -> None:
        super().__init__()
        _run(_ROOT / "softhsm-config" / "provision-softokn", self.directory / "token", self.LABEL)

    def open(self) -> Provider:
        from hsmbridge.providers.pkcs11 import Pkcs11Settings, open_pkcs11

        token = self.directory / "token"
        arguments = (token / "module-arguments").read_text()
        settings = Pkcs11Settings(module=_SOFTOKN_MODULE, token=self.LABEL, module_arguments=arguments)
        return open_pkcs11(settings, Pin((token / "pin").read_text()))


class Kryoptic(Backend):
    """A token of the kryoptic that `./dev kryoptic` builds."""

    LABEL = "conformance"

    def __init__(self) -> None:
        super().__init__()
        assert KRYOPTIC_MODULE.exists(), "kryoptic is not built; run ./dev kryoptic"
        provision = _ROOT / "softhsm-config" / "provision"
        _run(provision, "--kind", "kryoptic", "--module", KRYOPTIC_MODULE, self.directory / "token", self.LABEL)

    def open(self) -> Provider:
        from hsmbridge.providers.pkcs11 import Pkcs11Settings, open_pkcs11

        token = self.directory / "token"
        os.environ["KRYOPTIC_CONF"] = str(token / "kryoptic.conf")
        settings = Pkcs11Settings(module=str(KRYOPTIC_MODULE), token=self.LABEL)
        return open_pkcs11(settings, Pin((token / "pin").read_text()))


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


BACKENDS: Mapping[str, type[Backend]] = {
    "software": Software,
    "oqs": Oqs,
    "softhsm": SoftHsm,
    "softokn": Softokn,
    "kryoptic": Kryoptic,
    "tpm": Tpm,
}
