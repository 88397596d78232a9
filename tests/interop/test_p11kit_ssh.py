"""OpenSSH: log-in to a real sshd with keys of ours, by the client's PKCS11Provider and by ssh-agent."""

import getpass
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.p11kit_client import MODULE, Service, service
from tests.interop.p11kit_servers import free_port, serving

__all__ = ["service"]

KEYS = [("software", "EC:prime256v1"), ("softhsm", "rsa:2048"), ("tpm", "EC:prime256v1")]


@contextmanager
def sshd(folder: Path, authorized: str) -> Iterator[int]:
    """A server on a port of its own that lets one key in, with a host key of its own."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host"], check=True, timeout=60)
    (folder / "authorized_keys").write_text(authorized + "\n")
    port = free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        "KbdInteractiveAuthentication no\n"
    )
    command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")]
    with serving(command, "Server listening", folder, os.environ):
        host = (folder / "host.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host}")
        yield port


def make(service: Service, token: str, key_type: str, folder: Path) -> str:
    """A key of a token; its line of authorized_keys, which stands in ours.pub too."""
    service.tool("--token-label", token, "-k", "--key-type", key_type, "--label", "login", "--id", "10", cwd=folder)
    listed = service.run("ssh-keygen", "-D", MODULE, cwd=folder).splitlines()
    line = next(line for line in listed if line.endswith(" login"))
    (folder / "ours.pub").write_text(line + "\n")
    return line


def ssh(port: int, *options: str) -> list[str]:
    return [
        *("ssh", "-F", "none", "-p", str(port), "-o", "UserKnownHostsFile=known_hosts", "-o", "BatchMode=yes"),
        *("-o", "IdentitiesOnly=yes", "-i", "ours.pub", *options, f"{getpass.getuser()}@127.0.0.1", "echo logged in"),
    ]


@pytest.mark.parametrize(("token", "key_type"), KEYS)
def test_ssh_logs_in_with_a_key_of_ours(service: Service, token: str, key_type: str, tmp_path: Path) -> None:
    line = make(service, token, key_type, tmp_path)
    with sshd(tmp_path, line) as port:
        said = service.run(*ssh(port, "-o", f"PKCS11Provider={MODULE}"), cwd=tmp_path)
        assert "logged in" in said
    service.tool("--token-label", token, "-b", "-y", "privkey", "--id", "10", cwd=tmp_path)


def test_a_key_that_is_not_authorized_does_not_log_in(service: Service, tmp_path: Path) -> None:
    make(service, "software", "EC:prime256v1", tmp_path)
    with sshd(tmp_path, (tmp_path / "ours.pub").read_text().replace("AAAA", "AAAB", 1)) as port:
        said = service.run(*ssh(port, "-o", f"PKCS11Provider={MODULE}"), cwd=tmp_path, check=False)
        assert "Permission denied" in said
    service.tool("--token-label", "software", "-b", "-y", "privkey", "--id", "10", cwd=tmp_path)


@pytest.mark.parametrize(("token", "key_type"), KEYS)
def test_ssh_agent_holds_keys_of_ours(service: Service, token: str, key_type: str, tmp_path: Path) -> None:
    line = make(service, token, key_type, tmp_path)
    socket = service.socket.with_name("agent.sock")
    (tmp_path / "askpass").write_text("#!/bin/sh\necho none\n")
    (tmp_path / "askpass").chmod(0o700)
    agent = {
        "SSH_AUTH_SOCK": str(socket),
        "SSH_ASKPASS": str(tmp_path / "askpass"),
        "SSH_ASKPASS_REQUIRE": "force",
        "P11_KIT_SERVER_ADDRESS": f"unix:path={service.socket}",
    }
    with (
        serving(["ssh-agent", "-D", "-a", str(socket)], "SSH_AUTH_SOCK", tmp_path, {**os.environ, **agent}),
        sshd(tmp_path, line) as port,
    ):
        service.run("ssh-add", "-s", MODULE, cwd=tmp_path, check=True, **agent)
        assert line.split()[1] in service.run("ssh-add", "-L", cwd=tmp_path, check=True, **agent)
        assert "logged in" in service.run(*ssh(port), cwd=tmp_path, check=True, **agent)
    socket.unlink(missing_ok=True)
    service.tool("--token-label", token, "-b", "-y", "privkey", "--id", "10", cwd=tmp_path)
