"""A daemon that is an SSH agent, a real sshd, and an agent's client written after the protocol, not after our codec."""

import getpass
import os
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from hsmbridge.client import CryptoStack, KeyOperationPermission
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions
from tests.interop.p11kit_servers import free_port, serving

SIGN, VERIFY = KeyOperationPermission.SIGN, KeyOperationPermission.VERIFY
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
OTHER_UID = 65_534
"""nobody: ssh-keygen only runs for users that there are."""
OTHER = f"uid:{OTHER_UID}"


class SshService:
    """A lab whose daemon is an SSH agent."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.socket = lab.runtime_directory / "ssh-agent.sock"

    @property
    def stack(self) -> CryptoStack:
        return self.lab.stack()

    def run(
        self, *command: str | Path, cwd: Path, other: bool = False, env: Mapping[str, str] = NOTHING
    ) -> tuple[int, str]:
        """Run somebody else's program with our agent, as oneself or as another user: its status and all it says."""
        identity = ("setpriv", f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups", "--") if other else ()
        ended = subprocess.run(
            [*identity, *map(str, command)],
            cwd="/" if other else cwd,
            env={**os.environ, "SSH_AUTH_SOCK": str(self.socket), "LC_ALL": "C", **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        return ended.returncode, ended.stdout.decode(errors="replace")

    def does(self, *command: str | Path, cwd: Path, other: bool = False, env: Mapping[str, str] = NOTHING) -> str:
        """As `run`, where it must succeed."""
        status, said = self.run(*command, cwd=cwd, other=other, env=env)
        assert status == 0, f"{command[0]} ended with {status}: {said}"
        return said

    def fails(self, *command: str | Path, cwd: Path, other: bool = False, env: Mapping[str, str] = NOTHING) -> str:
        """As `run`, where it must not succeed."""
        status, said = self.run(*command, cwd=cwd, other=other, env=env)
        assert status != 0, f"{command[0]} was expected to fail: {said}"
        return said

    def make(self, name: str, key_type: str, provider: str, folder: Path, algorithms: tuple[str, ...] = ()) -> str:
        """A slot that signs; the line of its public key as `ssh-add -L` tells it, which stands in NAME.pub too."""
        with self.stack as stack:
            stack.create_slot(name, key_type, SIGN | VERIFY, providers=[provider], algorithms=algorithms)
        return self.public_key(name, folder)

    def public_key(self, name: str, folder: Path) -> str:
        """The line of a key that the agent has, which stands in NAME.pub too."""
        lines = self.does("ssh-add", "-L", cwd=folder).splitlines()
        (line,) = [line for line in lines if line.split(" ", 2)[2] == name]
        (folder / f"{name}.pub").write_text(line + "\n")
        return line

    def client(self) -> "AgentClient":
        return AgentClient(self.socket)


def start(settings: str = "", options: LabOptions | None = None) -> Lab:
    """A lab with the front end on, and the way to its socket open to everybody."""
    lab = Lab.start(options)
    try:
        with lab.config.open("a") as file:
            file.write(f'\n[frontends.ssh_agent]\nsocket_mode = "0666"\n{settings}\n')
        lab.directory.chmod(0o711)
        lab.restart_daemon()
    except BaseException:
        lab.down()
        raise
    return lab


@contextmanager
def sshd(folder: Path, authorized: str, *settings: str, host_key: str = "ed25519") -> Iterator[int]:
    """A server on a port of its own that lets in whom `authorized` names; its host key is new."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", host_key, "-N", "", "-f", folder / "host"], check=True, timeout=60)
    (folder / "authorized_keys").write_text(authorized + "\n")
    port = free_port()
    lines = (
        *(f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", "PidFile none", "UsePAM no"),
        *("StrictModes no", f"AuthorizedKeysFile {folder}/authorized_keys", "PasswordAuthentication no"),
        *("PermitRootLogin prohibit-password", "KbdInteractiveAuthentication no", *settings),
    )
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")]
    with serving(command, "Server listening", folder, os.environ):
        host = (folder / "host.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host}")
        yield port


def ssh(port: int, *options: str, command: str = "echo logged in") -> list[str]:
    """A log-in of oneself."""
    return [
        *("ssh", "-F", "none", "-p", str(port), "-o", "UserKnownHostsFile=known_hosts", "-o", "BatchMode=yes"),
        *(*options, f"{getpass.getuser()}@127.0.0.1", command),
    ]


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


class AgentClient:
    """One connection."""

    FAILURE, SUCCESS = b"\x05", b"\x06"

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(os.fspath(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, message: bytes) -> None:
        self.socket.sendall(string(message))

    def receive(self) -> bytes:
        """The next reply, b"" at the end of the stream."""
        head = self._read(4)
        return self._read(struct.unpack(">I", head)[0]) if head else b""

    def ask(self, message: bytes) -> bytes:
        self.send(message)
        return self.receive()

    def identities(self) -> dict[bytes, bytes]:
        """Public keys by comment."""
        answer = self.ask(b"\x0b")
        assert answer[0] == 12
        (count,) = struct.unpack_from(">I", answer, 1)
        strings, place = [], 5
        while place < len(answer):
            (size,) = struct.unpack_from(">I", answer, place)
            strings.append(answer[place + 4 : place + 4 + size])
            place += 4 + size
        assert len(strings) == 2 * count
        return dict(zip(strings[1::2], strings[::2], strict=True))

    @staticmethod
    def sign_request(key: bytes, data: bytes, flags: int = 0) -> bytes:
        return b"\x0d" + string(key) + string(data) + struct.pack(">I", flags)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                return b""
            data += piece
        return data
