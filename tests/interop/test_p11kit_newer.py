"""The p11-kit clients of newer Debians (`./dev p11-kit`), which speak versions 1 and 2 of the protocol.

Each runs with a C library of its own, by whose loader the programs are started; the programs are Debian 12's. What
works with the old client is tried again, word for word; then what only newer clients carry.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hsmbridge.lab.lab import Lab
from tests.interop.p11kit_client import MODULE, Service, start
from tests.interop.test_p11kit_clients import (
    test_an_rsa_key_made_by_habit_signs_and_decrypts,
    test_every_provider_is_a_token,
    test_gnutls_sees_and_uses_keys,
    test_openssl_serves_tls_with_a_key_of_ours,
    test_pkcs11_tool_makes_finds_uses_and_destroys_an_ec_key,
    test_python_pkcs11_uses_lasting_and_passing_keys,
    test_ssh_reads_public_keys,
    test_the_self_test_of_pkcs11_tool_finds_no_error,
)

__all__ = [
    "test_an_rsa_key_made_by_habit_signs_and_decrypts",
    "test_every_provider_is_a_token",
    "test_gnutls_sees_and_uses_keys",
    "test_openssl_serves_tls_with_a_key_of_ours",
    "test_pkcs11_tool_makes_finds_uses_and_destroys_an_ec_key",
    "test_python_pkcs11_uses_lasting_and_passing_keys",
    "test_ssh_reads_public_keys",
    "test_the_self_test_of_pkcs11_tool_finds_no_error",
]

pytestmark = pytest.mark.all

CLIENTS: Final = {"trixie": 1, "sid": 2}
"""The version that the client of each suite offers."""

_FOLDER: Final = Path(__file__).parents[2] / ".p11-kit"
_PROGRAMS: Final = ("pkcs11-tool", "openssl", "p11tool", "certtool", "ssh-keygen")


class NewerService(Service):
    """A service whose programs use the p11-kit of another Debian; `programs` holds those of them that others start."""

    def __init__(self, lab: Lab, suite: str, folder: Path) -> None:
        super().__init__(lab)
        libraries = _FOLDER / suite / "usr/lib/x86_64-linux-gnu"
        self.module = str(libraries / "pkcs11/p11-kit-client.so")
        self._loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries), "--argv0"]
        for program in _PROGRAMS:
            path = shutil.which(program)
            (folder / program).write_text(f'#!/bin/sh\nexec {" ".join(self._loader)} {path} {path} "$@"\n')
            (folder / program).chmod(0o755)
        self.programs = folder
        self._path = f"{folder}:{os.environ['PATH']}"

    def run(self, *command: str | Path, cwd: Path, check: bool = True, **environment: str) -> str:
        program, *rest = (self.module if part == MODULE else str(part) for part in command)
        if program == sys.executable:
            program, rest = self._loader[0], [*self._loader[1:], sys.executable, sys.executable, *rest]
        else:
            program = shutil.which(program, path=self._path) or program
        given = {name: self.module if value == MODULE else value for name, value in environment.items()}
        return super().run(program, *rest, cwd=cwd, check=check, PATH=self._path, **given)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with start() as started:
        yield started


@pytest.fixture(scope="module", params=CLIENTS)
def suite(request: pytest.FixtureRequest) -> str:
    named: str = request.param
    return named


@pytest.fixture(scope="module")
def service(lab: Lab, suite: str, tmp_path_factory: pytest.TempPathFactory) -> NewerService:
    assert (_FOLDER / suite).is_dir(), "there are no newer clients; run ./dev p11-kit"
    return NewerService(lab, suite, tmp_path_factory.mktemp(suite))


def test_the_client_offers_the_version_that_it_is_here_for(service: NewerService, suite: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        path = service.lab.directory / f"{suite}.sock"
        listening.bind(os.fspath(path))
        listening.listen()
        asking = subprocess.Popen(
            [service.programs / "pkcs11-tool", "--module", service.module, "-L"],
            env={**os.environ, "P11_KIT_SERVER_ADDRESS": f"unix:path={path}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with listening.accept()[0] as connection:
            assert connection.recv(1) == bytes([CLIENTS[suite]])
        listening.close()
        asking.wait(timeout=30)


def test_what_only_newer_clients_carry_is_right_on_every_token(service: NewerService, tmp_path: Path) -> None:
    said = service.run(sys.executable, Path(__file__).with_name("p11kit_newer.py"), MODULE, cwd=tmp_path)
    signatures = "ECDSA_SHA256 ECDSA_SHA384 ECDSA_SHA512 SHA256_RSA_PKCS_PSS SHA512_RSA_PKCS_PSS"
    assert said.splitlines() == [
        f"software {signatures} ECDH1_DERIVE AES_GCM AES_CBC_PAD AES_CTR AES_CMAC",
        f"softhsm {signatures} ECDH1_DERIVE AES_GCM AES_CBC_PAD AES_CTR AES_CMAC",
        f"tpm {signatures}",
    ]
