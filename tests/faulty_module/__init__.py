"""A PKCS#11 module that fails on purpose: SoftHSM behind a wrapper in C (faulty.c) that a test tells what to do.

    module = FaultyModule.build(directory)              # compiled by gcc once a session; directory must not exist
    provider: "pkcs11:token=lab?module-path=" + str(module.path), with the token's own SOFTHSM2_CONF
    module.fail("C_Sign", CKR_DEVICE_ERROR)             # the next C_Sign answers that, without being done
    module.fail("C_GenerateKeyPair", CKR_DEVICE_ERROR, done=True)   # it is done, and answers that all the same
    module.hang("C_Sign", 2.5)                          # the next C_Sign takes that many seconds longer
    module.crash("C_GenerateKeyPair", done=True)        # the process dies when the pair has been made
    module.halve(crash=True)                            # … when only the public half is there
    module.calls("C_FindObjectsInit")                   # how often it was called since the module was built

Faults are files, so they reach a module that any process has loaded, and a fault that is meant once happens once
however many processes there are. `times=-1` is for ever; `heal` ends it. The SoftHSM inside is a copy of its own, so
that one process can have both this and the real one.
"""

import atexit
import functools
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")

CKR_GENERAL_ERROR = 0x05
CKR_FUNCTION_FAILED = 0x06
CKR_DEVICE_ERROR = 0x30
CKR_DEVICE_MEMORY = 0x31
CKR_DEVICE_REMOVED = 0x32
CKR_KEY_HANDLE_INVALID = 0x60
CKR_PIN_EXPIRED = 0xA3
CKR_PIN_LOCKED = 0xA4
CKR_SESSION_CLOSED = 0xB0
CKR_SESSION_COUNT = 0xB1
CKR_SESSION_HANDLE_INVALID = 0xB3
CKR_TOKEN_NOT_PRESENT = 0xE0
CKR_USER_NOT_LOGGED_IN = 0x101
CKR_CRYPTOKI_NOT_INITIALIZED = 0x190

ALWAYS = -1


@dataclass(frozen=True, slots=True)
class FaultyModule:
    """One faulty module, in a directory of its own."""

    directory: Path

    @classmethod
    def build(cls, directory: Path, real: Path = SOFTHSM) -> Self:
        """Make one over a real module."""
        (directory / "control" / "calls").mkdir(parents=True)
        shutil.copy(_compiled(), directory / "libfaulty.so")
        shutil.copy(real, directory / "real.so")
        return cls(directory)

    @property
    def path(self) -> Path:
        """The module to load."""
        return self.directory / "libfaulty.so"

    def fail(self, function: str, code: int, times: int = 1, *, done: bool = False) -> None:
        """Answer `code`; the call is done or not."""
        self._write(function, "then-return" if done else "return", code, times)

    def hang(self, function: str, seconds: float, times: int = 1, *, done: bool = False) -> None:
        """Take that much longer, before the call is done or after."""
        self._write(function, "then-hang" if done else "hang", int(seconds * 1000), times)

    def crash(self, function: str, times: int = 1, *, done: bool = False) -> None:
        """Abort the process, before the call is done or after."""
        self._write(function, "then-abort" if done else "abort", 0, times)

    def halve(self, times: int = 1, *, crash: bool = False) -> None:
        """Of a new key pair only the public half is left; then abort, or answer CKR_DEVICE_ERROR."""
        self._write("C_GenerateKeyPair", "half-abort" if crash else "half", CKR_DEVICE_ERROR, times)

    def heal(self, function: str) -> None:
        """No fault any more."""
        (self.directory / "control" / function).unlink(missing_ok=True)

    def pending(self, function: str) -> int:
        """How many times the fault has still to happen."""
        try:
            return int((self.directory / "control" / function).read_text().split()[2])
        except FileNotFoundError:
            return 0

    def calls(self, function: str) -> int:
        """How often the function was called, in whichever process."""
        try:
            return (self.directory / "control" / "calls" / function).stat().st_size
        except FileNotFoundError:
            return 0

    def _write(self, function: str, action: str, number: int, times: int) -> None:
        control = self.directory / "control"
        fresh = control / f".{function}.new"
        fresh.write_text(f"{action} {number} {times}\n")
        fresh.rename(control / function)


@functools.cache
def _compiled() -> Path:
    source = Path(__file__).with_name("faulty.c")
    directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    target = directory / "libfaulty.so"
    command = ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-format-truncation", "-O1", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(target), str(source), "-ldl"], check=True, timeout=60)
    return target
