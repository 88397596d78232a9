"""Certificates by command line and client through a real daemon, for keys on tokens, checked with openssl."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_public_key
from cryptography.hazmat.primitives.serialization import PublicFormat as Public

from hsmbridge.client import CertificateGuard, CryptoStack
from hsmbridge.client.key_formats.certificates import certificate_pem, certificates_in, crl_pem
from hsmbridge.core.errors import CertificateError, ConnectionLost, ResourceError, Status
from hsmbridge.lab.lab import Lab
from tests.unit.cli.command import Ended, hsmbridge
from tests.unit.service.pki import DAY, NOW, Authority

ROOT = Authority("Root")
ISSUING = Authority("Issuing", parent=ROOT)
HOST = "host.example"
_numbers = count()


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(autouse=True)
def the_lab(hsmbridge_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("HSMBRIDGE_SOCKET", str(hsmbridge_lab.socket))
    monkeypatch.setenv("HSMBRIDGE_CONFIG", str(hsmbridge_lab.config))
    return hsmbridge_lab


@pytest.fixture
def stack(hsmbridge_lab: Lab) -> Iterator[CryptoStack]:
    with hsmbridge_lab.stack() as made:
        yield made


def done(*arguments: object, stdin: bytes = b"") -> Ended:
    """A command that must succeed."""
    ended = hsmbridge(*arguments, stdin=stdin)
    assert ended.code == 0, ended.stderr
    return ended


def refused(status: str, code: int, *arguments: object, stdin: bytes = b"") -> str:
    """The message of a command that must fail."""
    ended = hsmbridge(*arguments, "--json", stdin=stdin)
    assert ended.stdout == b""
    assert (ended.problem["status"], ended.code) == (status, code), ended.problem
    return str(ended.problem["message"])


def name() -> str:
    return f"cert-{next(_numbers)}"


def pem(*certificates: bytes) -> bytes:
    return certificate_pem(*certificates).encode()


@pytest.mark.parametrize("provider", ["software", "softhsm", "tpm"])
def test_a_certificate_of_a_key_in_a_slot_is_bound_verified_and_read_by_openssl(provider: str, folder: Path) -> None:
    slot, roots = name(), name()
    done("slot", "create", slot, "--provider", provider, "--key-type", "EC-P256", "--permissions", "sign,verify")
    public = load_pem_public_key(done("slot", "show", slot, "--public-key", "pem").stdout)
    leaf = ISSUING.issue(public.public_bytes(Encoding.DER, Public.SubjectPublicKeyInfo))
    stored = done("cert", "import", slot, "--slot", slot, "--json", stdin=pem(ISSUING.der, leaf)).json
    assert stored["slot"].endswith(f"/{slot}")
    assert [one["subject"] for one in stored["chain"]] == ["CN=leaf", "CN=Issuing"]
    done("trust", "create", roots, stdin=b"")
    done("trust", "add", roots, stdin=pem(ROOT.der))
    verified = done("cert", "verify", slot, "--trust", roots, "--purpose", "server", "--for", HOST, "--json").json
    assert len(verified["chain"]) == 3
    done("cert", "export", slot, "--chain", "--out", folder / "chain.pem")
    (folder / "root.pem").write_bytes(pem(ROOT.der))
    ended = subprocess.run(
        ["/usr/bin/openssl", "verify", "-CAfile", folder / "root.pem", "-untrusted", folder / "chain.pem",
         folder / "chain.pem"],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert ended.stdout.endswith(b": OK\n")
    assert certificates_in(done("cert", "export", slot, "--format", "der").stdout) == (leaf,)
    assert "CN=leaf" in done("cert", "show", slot).text
    assert slot in done("cert", "list").text


def test_a_certificate_of_another_key_is_refused() -> None:
    slot = name()
    done("slot", "create", slot, "--provider", "software", "--key-type", "EC-P256", "--permissions", "sign,verify")
    message = refused("CERTIFICATE_INVALID", 19, "cert", "import", slot, "--slot", slot, stdin=pem(ISSUING.issue()))
    assert "another key" in message
    refused("RESOURCE_NOT_FOUND", 13, "cert", "show", slot)


def test_what_is_no_certificate_is_refused_by_what_it_is() -> None:
    key = ROOT.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert "private key" in refused("CERTIFICATE_INVALID", 19, "cert", "import", name(), stdin=pem(ROOT.der) + key)
    assert "PEM or DER" in refused("CERTIFICATE_INVALID", 19, "cert", "import", name(), stdin=b"Dear openssl,\n")
    assert "cannot be read" in refused("CERTIFICATE_INVALID", 19, "cert", "import", name(), stdin=pem(b"\x30\x00"))
    refused("CERTIFICATE_INVALID", 19, "cert", "import", name(), stdin=b"")


def test_a_revoked_certificate_is_not_trusted(folder: Path) -> None:
    roots, crl = name(), name()
    (folder / "root.pem").write_bytes(pem(ROOT.der))
    (folder / "leaf.der").write_bytes(ROOT.issue(serial=77))
    done("trust", "create", roots, "--in", folder / "root.pem")
    done("crl", "import", crl, stdin=crl_pem(ROOT.crl(78)).encode())
    verify = ("cert", "verify", "--in", folder / "leaf.der", "--trust", roots, "--purpose", "server", "--for", HOST)
    assert "chain of 2" in done(*verify, "--crl", crl).text
    newer = ROOT.crl(77, 78, number=2)
    done("crl", "import", crl, stdin=newer)
    assert "was revoked" in refused("CERTIFICATE_NOT_TRUSTED", 19, *verify, "--crl", crl)
    assert done("crl", "show", crl, "--json").json["revoked"] == 2
    refused("CERTIFICATE_NOT_TRUSTED", 19, *verify, "--at", "2999-01-01T00:00:00Z")
    assert crl in done("crl", "list").text
    assert done("crl", "export", crl, "--format", "der").stdout == newer
    done("crl", "remove", crl)
    refused("RESOURCE_NOT_FOUND", 13, "crl", "show", crl)


def test_anchors_and_access_lists_are_changed_by_command() -> None:
    roots = name()
    done("trust", "create", roots)
    shown = done("trust", "add", roots, "--json", stdin=pem(ROOT.der, ISSUING.der)).json
    assert len(shown["anchors"]) == 2
    less = done("trust", "remove", roots, "--anchor", shown["anchors"][0]["sha256"], "--json").json
    assert [one["subject"] for one in less["anchors"]] == ["CN=Issuing"]
    assert "uid:4711" in done("trust", "grant", roots, "uid:4711").text
    assert "uid:4711" not in done("trust", "ungrant", roots, "uid:4711").text
    assert roots in done("trust", "list").text
    done("trust", "remove", roots)
    refused("RESOURCE_NOT_FOUND", 13, "trust", "show", roots)


def test_an_expired_certificate_is_stored_and_the_doctor_tells() -> None:
    old = name()
    done("cert", "import", old, stdin=pem(ISSUING.issue(begins=NOW - 9 * DAY, ends=NOW - DAY)))
    found = [one for one in done("doctor", "--json").json["findings"] if one["subject"].endswith(f"/{old}")]
    assert [one["severity"] for one in found] == ["warning"]
    done("cert", "remove", old)


def test_a_transient_certificate_ends_with_its_guard_or_its_connection(the_lab: Lab) -> None:
    with CryptoStack(the_lab.socket) as stack:
        stack.create_trust_store("transient", certificate_pem(ROOT.der).encode())
        with stack.load_certificate(ISSUING.issue() + ISSUING.der) as guard:
            assert isinstance(guard, CertificateGuard)
            assert [one.subject for one in guard.chain] == ["CN=leaf", "CN=Issuing"]
            assert len(stack.verify_certificate(guard, "transient", purpose="server", subject=HOST)) == 3
            assert guard.active
        with pytest.raises(ResourceError):
            stack.show_certificate(guard)
        left = stack.load_certificate(ISSUING.issue())
        resource = left.resource
    with CryptoStack(the_lab.socket) as stack:
        with pytest.raises(ConnectionLost):
            stack.show_certificate(left)
        with pytest.raises(ResourceError) as gone:
            stack.show_certificate(resource)
        assert gone.value.status is Status.RESOURCE_NOT_FOUND
        stack.remove_trust_store("transient")


def test_ids_stand_for_names_on_their_connection(stack: CryptoStack) -> None:
    web = name()
    stack.import_certificate(web, ISSUING.issue())
    found = stack.resolve_certificate(web)
    assert stack.resolve_certificate(web) == found
    assert stack.show_certificate(found).name.endswith(f"/{web}")
    stack.remove_certificate(web)
    with pytest.raises(ResourceError):
        stack.show_certificate(found)


def test_a_refusal_names_its_category(stack: CryptoStack) -> None:
    with pytest.raises(CertificateError) as refusal:
        stack.import_certificate(name(), ISSUING.issue()[:-1])
    assert refusal.value.status is Status.CERTIFICATE_INVALID
