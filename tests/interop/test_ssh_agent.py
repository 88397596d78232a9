"""OpenSSH and git with the daemon as their agent: what it signs is verified by sshd, ssh-keygen and git.

Keys in software, in SoftHSM and in a TPM. The other user is a process under a uid of its own, which only root can
start; run by anybody else those tests belong to those that `--all` asks for.
"""

import base64
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hsmbridge.client import KeyOperationPermission
from hsmbridge.lab.options import LabOptions
from tests.interop.ssh_agent_service import (
    OTHER,
    SIGN,
    VERIFY,
    AgentClient,
    SshService,
    ssh,
    sshd,
    start,
    string,
)

KEYS = [
    *(("software", key_type) for key_type in ("Ed25519", "EC-P256", "EC-P384", "EC-P521", "RSA-2048", "RSA-3072")),
    *(("softhsm", key_type) for key_type in ("Ed25519", "EC-P256", "EC-P521", "RSA-2048")),
    *(("tpm", key_type) for key_type in ("EC-P256", "EC-P384", "RSA-2048")),
]
RSA_KEYS = [(provider, key_type) for provider, key_type in KEYS if key_type.startswith("RSA")]
BITS = {"Ed25519": 256, "EC-P256": 256, "EC-P384": 384, "EC-P521": 521, "RSA-2048": 2048, "RSA-3072": 3072}
SHOWN = {"Ed25519": "ED25519", "EC": "ECDSA", "RSA": "RSA"}
ONLY = ("-o", "IdentitiesOnly=yes", "-i")
by_root = pytest.mark.all if os.geteuid() else pytest.mark.usefixtures("service")


@pytest.fixture(scope="module")
def service() -> Iterator[SshService]:
    with start("[log]\naudit_uses = true", LabOptions(workers=2)) as lab:
        yield SshService(lab)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of a slot that no other test has."""
    made: str = request.node.name
    return "".join(letter if letter.isalnum() else "-" for letter in made.removeprefix("test_"))[:60].rstrip("-")


def destroy(service: SshService, *names: str) -> None:
    with service.stack as stack:
        for name in names:
            stack.destroy(name)


def signature_by(service: SshService, name: str, folder: Path, *options: str) -> None:
    """`ssh-keygen -Y sign` with a key of the agent, and verify, which must fail for another message."""
    (folder / "message").write_text("a message")
    (folder / "message.sig").unlink(missing_ok=True)
    (folder / "allowed").write_text(f"me@example.org {(folder / f'{name}.pub').read_text()}")
    sign = ("ssh-keygen", "-Y", "sign", "-n", "file", "-f", f"{name}.pub", *options, "message")
    service.does(*sign, cwd=folder)
    verify = 'ssh-keygen -Y verify -f allowed -I me@example.org -n file -s message.sig < "$0"'
    assert "Good" in service.does("sh", "-c", verify, "message", cwd=folder)
    (folder / "other").write_text("another message")
    service.fails("sh", "-c", verify, "other", cwd=folder)


@pytest.mark.parametrize(("provider", "key_type"), KEYS)
def test_ssh_logs_in_and_ssh_keygen_signs(
    service: SshService, provider: str, key_type: str, name: str, tmp_path: Path
) -> None:
    line = service.make(name, key_type, provider, tmp_path)
    listed = service.does("ssh-add", "-l", cwd=tmp_path)
    family = key_type.partition("-")[0]
    assert any(
        one.startswith(f"{BITS[key_type]} ") and one.endswith(f" {name} ({SHOWN[family]})")
        for one in listed.splitlines()
    )
    signature_by(service, name, tmp_path)
    with sshd(tmp_path, line) as port:
        said = service.does(*ssh(port, "-v", *ONLY, f"{name}.pub"), cwd=tmp_path)
    assert "logged in" in said
    assert "bound agent to hostkey" in said
    destroy(service, name)


@pytest.mark.parametrize("algorithm", ["rsa-sha2-256", "rsa-sha2-512"])
@pytest.mark.parametrize(("provider", "key_type"), RSA_KEYS)
def test_rsa_keys_sign_with_either_hash(
    service: SshService, provider: str, key_type: str, algorithm: str, name: str, tmp_path: Path
) -> None:
    line = service.make(name, key_type, provider, tmp_path)
    with sshd(tmp_path, line, f"PubkeyAcceptedAlgorithms {algorithm}") as port:
        said = service.does(
            *ssh(port, "-o", f"PubkeyAcceptedAlgorithms={algorithm}", *ONLY, f"{name}.pub"), cwd=tmp_path
        )
    assert "logged in" in said
    destroy(service, name)


@pytest.mark.parametrize("host_key", ["ecdsa", "rsa"])
def test_sessions_with_other_host_keys_are_bound_too(
    service: SshService, host_key: str, name: str, tmp_path: Path
) -> None:
    line = service.make(name, "Ed25519", "software", tmp_path)
    with sshd(tmp_path, line, host_key=host_key) as port:
        said = service.does(*ssh(port, "-v", *ONLY, f"{name}.pub"), cwd=tmp_path)
    assert "bound agent to hostkey" in said
    destroy(service, name)


def test_a_server_shows_a_host_key_of_the_agent(service: SshService, name: str, tmp_path: Path) -> None:
    host = service.make(f"{name}-host", "EC-P256", "tpm", tmp_path)
    line = service.make(name, "Ed25519", "software", tmp_path)
    public = tmp_path / f"{name}-host.pub"
    public.chmod(0o600)
    with sshd(tmp_path, line, f"HostKey {public}", f"HostKeyAgent {service.socket}") as port:
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {host}\n")
        of_the_host = ("-o", "HostKeyAlgorithms=ecdsa-sha2-nistp256")
        said = service.does(*ssh(port, "-v", *of_the_host, *ONLY, f"{name}.pub"), cwd=tmp_path)
    assert "logged in" in said
    assert "Server host key: ecdsa-sha2-nistp256" in said
    destroy(service, name, f"{name}-host")


@pytest.mark.parametrize(
    ("provider", "key_type"), [("software", "Ed25519"), ("softhsm", "RSA-2048"), ("tpm", "EC-P256")]
)
def test_git_commits_are_signed(service: SshService, provider: str, key_type: str, name: str, tmp_path: Path) -> None:
    line = service.make(name, key_type, provider, tmp_path)
    (tmp_path / "allowed").write_text(f"me@example.org {line}\n")
    settings = {
        "user.name": "Me",
        "user.email": "me@example.org",
        "gpg.format": "ssh",
        "gpg.ssh.allowedSignersFile": str(tmp_path / "allowed"),
        "user.signingKey": f"key::{line}",
    }
    own = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    home = {"HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    repository = tmp_path / "repository"
    service.does("git", "init", "-q", repository, cwd=tmp_path, env=home)
    service.does("git", *own, "commit", "-q", "--allow-empty", "-S", "-m", "signed", cwd=repository, env=home)
    said = service.does("git", *own, "verify-commit", "HEAD", cwd=repository, env=home)
    assert 'Good "git" signature for me@example.org' in said
    service.does("git", *own, "tag", "-s", "-m", "signed", "v1", cwd=repository, env=home)
    assert "Good" in service.does("git", *own, "verify-tag", "v1", cwd=repository, env=home)
    service.does("git", *own, "commit", "-q", "--allow-empty", "--no-gpg-sign", "-m", "not", cwd=repository, env=home)
    service.fails("git", *own, "verify-commit", "HEAD", cwd=repository, env=home)
    destroy(service, name)


def test_a_certification_authority_in_the_agent_signs_certificates_that_log_in(
    service: SshService, name: str, tmp_path: Path
) -> None:
    service.make(name, "Ed25519", "software", tmp_path)
    line = service.make("user", "EC-P256", "softhsm", tmp_path)
    user = service.does("id", "-un", cwd=tmp_path).strip()
    certify = ("ssh-keygen", "-q", "-U", "-s", f"{name}.pub", "-I", "somebody", "-n", user, "user.pub")
    service.does(*certify, cwd=tmp_path)
    with sshd(tmp_path, "", f"TrustedUserCAKeys {tmp_path / f'{name}.pub'}") as port:
        certified = ("-o", "CertificateFile=user-cert.pub", *ONLY, "user.pub")
        assert "logged in" in service.does(*ssh(port, *certified), cwd=tmp_path)
        assert line.startswith("ecdsa-sha2-nistp256 ")
        (tmp_path / "user-cert.pub").unlink()
        assert "Permission denied" in service.fails(*ssh(port, *ONLY, "user.pub"), cwd=tmp_path)
    destroy(service, name, "user")


def test_a_key_that_is_not_authorized_does_not_log_in(service: SshService, name: str, tmp_path: Path) -> None:
    line = service.make(name, "Ed25519", "software", tmp_path)
    with sshd(tmp_path, line.replace("AAAA", "AAAB", 1)) as port:
        assert "Permission denied" in service.fails(*ssh(port, *ONLY, f"{name}.pub"), cwd=tmp_path)
    destroy(service, name)


# What is seen, and by whom


def test_only_keys_that_sign_and_that_ssh_knows_are_offered(service: SshService, name: str, tmp_path: Path) -> None:
    with service.stack as stack:
        stack.create_slot(f"{name}-v", "Ed25519", VERIFY, providers=["software"], empty=True)
        stack.create_slot(f"{name}-448", "Ed448", SIGN | VERIFY, providers=["software"])
        stack.create_slot(f"{name}-hmac", "HMAC-SHA256", SIGN | VERIFY, providers=["software"])
        pss = stack.create_slot(
            f"{name}-pss", "RSA-2048", SIGN | VERIFY, providers=["software"], algorithms=["RSA-PSS-SHA256"]
        )
    assert pss.algorithms == ("RSA-PSS-SHA256",)
    assert name not in service.fails("ssh-add", "-l", cwd=tmp_path)
    destroy(service, *(f"{name}-{end}" for end in ("v", "448", "hmac", "pss")))


@by_root
def test_another_user_sees_nothing_and_signs_nothing_until_granted(
    service: SshService, name: str, tmp_path: Path
) -> None:
    line = service.make(name, "Ed25519", "software", tmp_path)
    folder = service.lab.directory / f"open-{name}"  # whatever leads there is open to everybody
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "key.pub").write_text(line + "\n")
    sign = ("ssh-add", "-T", folder / "key.pub")  # a signature, verified
    with service.stack as stack:
        assert "no identities" in service.fails("ssh-add", "-l", cwd=folder, other=True)
        assert "agent refused" in service.fails(*sign, cwd=folder, other=True)

        stack.grant(name, OTHER, VERIFY)
        assert "no identities" in service.fails("ssh-add", "-l", cwd=folder, other=True)
        assert "agent refused" in service.fails(*sign, cwd=folder, other=True)
        assert audited(service, OTHER)[-1]["status"] == "KEY_OPERATION_NOT_PERMITTED"

        stack.grant(name, OTHER, SIGN)
        # The name of a slot in somebody else's namespace is told with it.
        assert f" uid-{os.geteuid()}/{name} (ED25519)" in service.does("ssh-add", "-l", cwd=folder, other=True)
        service.does(*sign, cwd=folder, other=True)
        assert audited(service, OTHER)[-1]["status"] == "OK"

        stack.ungrant(name, OTHER)
        assert "no identities" in service.fails("ssh-add", "-l", cwd=folder, other=True)
        assert "agent refused" in service.fails(*sign, cwd=folder, other=True)
    destroy(service, name)


def audited(service: SshService, principal: str) -> list[dict[str, object]]:
    """The audit records of what somebody signed or tried to."""
    lines = (json.loads(line) for line in service.lab.log.read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("operation") == "sign" and line["principal"] == principal]


def test_every_signature_stands_in_the_audit(service: SshService, name: str, tmp_path: Path) -> None:
    service.make(name, "EC-P256", "software", tmp_path)
    signature_by(service, name, tmp_path)
    record = audited(service, f"uid:{os.geteuid()}")[-1]
    assert record["subject"] == f"uid-{os.geteuid()}/{name}"
    assert (record["algorithm"], record["status"], record["version"]) == ("ECDSA-P256-SHA256", "OK", 1)
    destroy(service, name)


def test_a_revoked_key_is_gone_and_refused(service: SshService, name: str, tmp_path: Path) -> None:
    line = service.make(name, "EC-P256", "software", tmp_path)
    with sshd(tmp_path, line) as port:
        service.does(*ssh(port, *ONLY, f"{name}.pub"), cwd=tmp_path)
        with service.client() as client, service.stack as stack:
            key = client.identities()[name.encode()]
            stack.revoke(name, 1)
            assert client.ask(client.sign_request(key, b"data")) == client.FAILURE
            assert name.encode() not in client.identities()
        assert audited(service, f"uid:{os.geteuid()}")[-1]["status"] != "OK"
        assert "Permission denied" in service.fails(*ssh(port, *ONLY, f"{name}.pub"), cwd=tmp_path)
    destroy(service, name)


def test_a_rotated_key_is_replaced_and_never_stands_for_the_new_one(
    service: SshService, name: str, tmp_path: Path
) -> None:
    with service.stack as stack:
        ceiling = SIGN | VERIFY | KeyOperationPermission.GENERATE
        stack.create_slot(name, "Ed25519", ceiling, providers=["software"])
        with service.client() as client:
            before = client.identities()[name.encode()]
            assert client.ask(client.sign_request(before, b"data"))[0] == 14
            stack.rotate(name)
            after = client.identities()[name.encode()]
            assert after != before
            assert client.ask(client.sign_request(before, b"data")) == client.FAILURE
            assert client.ask(client.sign_request(after, b"data"))[0] == 14
    destroy(service, name)


def test_after_a_restart_of_the_daemon_the_keys_are_there_again(service: SshService, name: str, tmp_path: Path) -> None:
    for provider in ("software", "softhsm", "tpm"):
        service.make(f"{name}-{provider}", "EC-P256", provider, tmp_path)
    with service.client() as left:
        service.lab.restart_daemon()
        assert left.receive() == b""
    for provider in ("software", "softhsm", "tpm"):
        before = (tmp_path / f"{name}-{provider}.pub").read_text()
        assert service.public_key(f"{name}-{provider}", tmp_path) == before.strip()
        signature_by(service, f"{name}-{provider}", tmp_path)
        destroy(service, f"{name}-{provider}")


# What there is not


def test_keys_are_not_added_removed_or_locked(service: SshService, name: str, tmp_path: Path) -> None:
    service.make(name, "Ed25519", "software", tmp_path)
    service.does("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "another", cwd=tmp_path)
    assert "agent refused" in service.fails("ssh-add", "another", cwd=tmp_path)
    assert "agent refused" in service.fails("ssh-add", "-d", f"{name}.pub", cwd=tmp_path)
    assert "ailed to remove" in service.fails("ssh-add", "-D", cwd=tmp_path)
    assert service.public_key(name, tmp_path)
    with service.client() as client:
        for lock in (22, 23):
            assert client.ask(bytes([lock]) + string(b"a secret")) == client.FAILURE
    destroy(service, name)


def test_sha1_and_unknown_flags_are_refused(service: SshService, name: str, tmp_path: Path) -> None:
    line = service.make(name, "RSA-2048", "software", tmp_path)
    key = base64.b64decode(line.split()[1])
    with service.client() as client:
        for flags in (0, 1, 8, 0x80000002):
            assert client.ask(client.sign_request(key, b"data", flags)) == client.FAILURE
        assert string(b"rsa-sha2-256") in client.ask(client.sign_request(key, b"data", 2))
    destroy(service, name)


def test_extensions_are_told(service: SshService) -> None:
    with service.client() as client:
        answer = client.ask(b"\x1b" + string(b"query"))
        assert answer == b"\x1d" + string(b"query") + string(b"query") + string(b"session-bind@openssh.com")
        assert client.ask(b"\x1b" + string(b"restrict-destination-v00@openssh.com")) == client.FAILURE


def test_a_session_that_the_host_did_not_sign_is_not_bound(service: SshService) -> None:
    host_key = string(b"ssh-ed25519") + string(bytes(32))
    signature = string(b"ssh-ed25519") + string(bytes(64))
    binding = string(host_key) + string(b"session") + string(signature) + b"\0"
    with service.client() as client:
        assert client.ask(b"\x1b" + string(b"session-bind@openssh.com") + binding) == b"\x1c"
        assert client.ask(b"\x1b" + string(b"session-bind@openssh.com") + binding[:-1]) == client.FAILURE


# The protocol


def test_replies_come_in_the_order_of_the_messages(service: SshService, name: str, tmp_path: Path) -> None:
    service.make(f"{name}-slow", "RSA-2048", "tpm", tmp_path)
    service.make(f"{name}-fast", "Ed25519", "software", tmp_path)
    with service.client() as client:
        keys = client.identities()
        slow, fast = keys[f"{name}-slow".encode()], keys[f"{name}-fast".encode()]
        for _ in range(5):
            client.send(client.sign_request(slow, b"data", 2))
            client.send(client.sign_request(fast, b"data"))
            client.send(b"\x0b")
            client.send(b"\xff")
        for _ in range(5):
            assert string(b"rsa-sha2-256") in client.receive()
            assert string(b"ssh-ed25519") in client.receive()
            assert client.receive()[0] == 12
            assert client.receive() == client.FAILURE
    destroy(service, f"{name}-slow", f"{name}-fast")


def test_many_clients_at_once_each_get_their_own(service: SshService, name: str, tmp_path: Path) -> None:
    names = [f"{name}-{number}" for number in range(4)]
    for one in names:
        service.make(one, "Ed25519", "software", tmp_path)

    def signed(number: int) -> int:
        with service.client() as client:
            key = client.identities()[names[number % len(names)].encode()]
            public = Ed25519PublicKey.from_public_bytes(key[-32:])
            for count in range(20):
                message = f"{number} {count}".encode()
                public.verify(client.ask(client.sign_request(key, message))[-64:], message)
        return number

    with ThreadPoolExecutor(32) as threads:
        assert sorted(threads.map(signed, range(32))) == list(range(32))
    destroy(service, *names)


def test_what_is_malformed_fails_or_ends_its_own_connection_only(
    service: SshService, name: str, tmp_path: Path
) -> None:
    service.make(name, "Ed25519", "software", tmp_path)
    with service.client() as other:
        with service.client() as client:
            for message in (b"\x0d", b"\x0d\xff\xff\xff\xff", b"\x0b more", b"\x1b\0\0\0\x09query", b"\0"):
                assert client.ask(message) == client.FAILURE
            assert name.encode() in client.identities()
        for head in (b"\0\0\0\0", b"\0\4\0\1", b"\xff\xff\xff\xff"):
            with AgentClient(service.socket) as client:
                client.socket.sendall(head + b"\x0b" * 100)
                assert client.receive() == b""
        key = other.identities()[name.encode()]
        # As long as a message may be.
        data = bytes(256 * 1024 - 1 - 4 - len(key) - 4 - 4)
        assert other.ask(other.sign_request(key, data))[0] == 14
    destroy(service, name)


# Settings


def test_an_agent_may_be_forwarded(service: SshService, name: str, tmp_path: Path) -> None:
    line = service.make(name, "Ed25519", "software", tmp_path)
    with sshd(tmp_path, line) as port:
        said = service.does(*ssh(port, "-A", *ONLY, f"{name}.pub", command="ssh-add -L"), cwd=tmp_path)
    assert line in said
    destroy(service, name)


def test_where_the_settings_say_so_it_may_not_and_only_some_slots_are_offered(tmp_path: Path) -> None:
    with start('forwarding = "refuse"\nslots = ["*/ssh-*"]', LabOptions(tpm=False)) as lab:
        service = SshService(lab)
        with service.stack as stack:
            stack.create_slot("web", "Ed25519", SIGN | VERIFY, providers=["software"])
        line = service.make("ssh-login", "Ed25519", "software", tmp_path)
        assert service.does("ssh-add", "-L", cwd=tmp_path).splitlines() == [line]
        with sshd(tmp_path, line) as port:
            login = ssh(port, "-A", *ONLY, "ssh-login.pub", command="ssh-add -L")
            assert "no identities" in service.fails(*login, cwd=tmp_path)


def test_the_command_line_tells_the_way(service: SshService, tmp_path: Path) -> None:
    command = f'eval "$({sys.executable} -m hsmbridge.cli ssh-agent env --config "$0")"; echo "$SSH_AUTH_SOCK"'
    said = service.does(
        "sh", "-c", command, service.lab.config, cwd=tmp_path, env={"SSH_AUTH_SOCK": "", "PYTHONPATH": str(Path.cwd())}
    )
    assert said.strip() == str(service.socket)


# Certificates


def certify(service: SshService, authority: str, key: str, user: str, folder: Path, *options: str) -> Path:
    """A certificate of a key of the agent by another one."""
    sign = ("ssh-keygen", "-q", "-U", "-s", f"{authority}.pub", "-I", "somebody", "-n", user, *options, f"{key}.pub")
    service.does(*sign, cwd=folder)
    return folder / f"{key}-cert.pub"


def hsmbridge(service: SshService, *arguments: str | Path) -> tuple[str | Path, ...]:
    return (sys.executable, "-m", "hsmbridge.cli", *arguments, "--socket", service.lab.socket)


@pytest.mark.parametrize(
    ("provider", "key_type"), [("software", "Ed25519"), ("softhsm", "RSA-2048"), ("tpm", "EC-P256")]
)
def test_a_slots_certificate_logs_in(
    service: SshService, provider: str, key_type: str, name: str, tmp_path: Path
) -> None:
    service.make(f"{name}-ca", "Ed25519", "software", tmp_path)
    plain = service.make(name, key_type, provider, tmp_path)
    user = service.does("id", "-un", cwd=tmp_path).strip()
    home = {"PYTHONPATH": str(Path.cwd())}
    file = certify(service, f"{name}-ca", name, user, tmp_path)
    said = service.does(*hsmbridge(service, "ssh-agent", "certificate", name, file), cwd=tmp_path, env=home)
    assert f"certificate 'somebody' for {user}, valid without end" in said
    certified = " ".join(file.read_text().split()[:2]) + f" {name}"
    file.unlink()
    listed = service.does("ssh-add", "-L", cwd=tmp_path).splitlines()
    assert listed.index(certified) == listed.index(plain) - 1
    with sshd(tmp_path, "", f"TrustedUserCAKeys {tmp_path / f'{name}-ca.pub'}") as port:
        (tmp_path / "certified.pub").write_text(certified + "\n")
        for options in ((), (*ONLY, "certified.pub")):
            assert "logged in" in service.does(*ssh(port, *options), cwd=tmp_path)
        # The file says which of the agent's identities: the key without the certificate is another.
        assert "Permission denied" in service.fails(*ssh(port, *ONLY, f"{name}.pub"), cwd=tmp_path)
        service.does(*hsmbridge(service, "ssh-agent", "certificate", name, "--remove"), cwd=tmp_path, env=home)
        assert certified not in service.does("ssh-add", "-L", cwd=tmp_path).splitlines()
        assert "Permission denied" in service.fails(*ssh(port, *ONLY, f"{name}.pub"), cwd=tmp_path)
    destroy(service, name, f"{name}-ca")


def test_a_certificate_of_another_key_is_not_kept(service: SshService, name: str, tmp_path: Path) -> None:
    for slot in (name, f"{name}-2"):
        service.make(slot, "Ed25519", "software", tmp_path)
    home = {"PYTHONPATH": str(Path.cwd())}
    file = certify(service, name, f"{name}-2", "me", tmp_path)
    keep = ("ssh-agent", "certificate", name)
    assert "is for another key" in service.fails(*hsmbridge(service, *keep, file), cwd=tmp_path, env=home)
    host = certify(service, name, name, "me", tmp_path, "-h")
    assert "a host's certificate" in service.fails(*hsmbridge(service, *keep, host), cwd=tmp_path, env=home)
    assert "Give a file" in service.fails(*hsmbridge(service, *keep), cwd=tmp_path, env=home)
    assert "cert-v01" not in service.does("ssh-add", "-L", cwd=tmp_path)
    destroy(service, name, f"{name}-2")
