"""Trust stores through PKCS#11: GnuTLS, p11-kit and NSS believe what the anchors of a trust store have issued."""

import hashlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hsmbridge.client import KeyOperationPermission
from hsmbridge.frontends.p11kit.numbers import Cka, Cko, Ckr
from hsmbridge.lab.options import LabOptions
from tests.interop.p11kit_client import MODULE, CkrError, Service, start, template, u
from tests.interop.p11kit_servers import free_port, serving

ANCHOR = "pkcs11:object=CN%3Dknown;type=cert"
STORE = f"uid-{os.getuid()}/anchors"


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(("openssl", *arguments), cwd=folder, check=True, capture_output=True, timeout=60)


def authority(folder: Path, name: str) -> None:
    """NAME.pem and NAME.der of an authority, and NAME-server.pem of a server that it has certified."""
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ca = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl(folder, "req", "-x509", *new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", *ca)
    openssl(folder, "x509", "-in", f"{name}.pem", "-outform", "DER", "-out", f"{name}.der")
    request = (
        *new,
        "-keyout",
        f"{name}-server.key",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    )
    issuer = ("-CA", f"{name}.pem", "-CAkey", f"{name}.key", "-days", "30", "-out", f"{name}-server.pem")
    openssl(folder, "req", "-x509", *request, *issuer, "-addext", "basicConstraints=critical,CA:false")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("trust")
    authority(made, "known")
    authority(made, "unknown")
    return made


@pytest.fixture(scope="module", params=["providers", "merged"])
def trusting(folder: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    settings = f'tokens = "{request.param}"\ntrust_stores = ["{STORE}", "elsewhere/not-to-be-seen"]'
    with start(settings, LabOptions(tpm=False)) as lab:
        with lab.stack() as stack:
            stack.create_trust_store("anchors", (folder / "known.der").read_bytes())
        yield Service(lab)


def test_p11tool_lists_anchors_as_trusted_authorities(trusting: Service, folder: Path) -> None:
    listed = trusting.run("p11tool", "--provider", MODULE, "--list-all-trusted", "pkcs11:", cwd=folder)
    assert "Label: CN=known\n" in listed
    assert "CKA_CERTIFICATE_CATEGORY=CA; CKA_TRUSTED;" in listed


@pytest.mark.parametrize(("name", "believed"), [("known", True), ("unknown", False)])
def test_gnutls_believes_servers_that_an_anchor_certified(
    trusting: Service, folder: Path, name: str, believed: bool
) -> None:
    port = free_port()
    files = ("--x509keyfile", f"{name}-server.key", "--x509certfile", f"{name}-server.pem")
    with serving(["gnutls-serv", "--echo", "-p", str(port), *files], "listening on", folder, dict(os.environ)):
        said = trusting.run(
            *("gnutls-cli", "--provider", MODULE, "--x509cafile", ANCHOR, "-p", str(port), "localhost"),
            cwd=folder,
            check=False,
        )
    assert ("Status: The certificate is trusted." in said) is believed, said
    assert ("The certificate issuer is unknown." in said) is not believed, said


def test_nss_believes_what_an_anchor_certified(trusting: Service, folder: Path, tmp_path: Path) -> None:
    trusting.run("certutil", "-N", "-d", "sql:.", "--empty-password", cwd=tmp_path)
    trusting.run("modutil", "-force", "-dbdir", "sql:.", "-add", "hsmbridge", "-libfile", MODULE, cwd=tmp_path)
    listed = trusting.run("certutil", "-L", "-d", "sql:.", "-h", "all", cwd=tmp_path)
    assert any("CN=known" in line and line.rstrip().endswith("CT,C,C") for line in listed.splitlines()), listed
    said = {}
    for name in ("known", "unknown"):
        of = ("-d", "sql:.", "-n", name)
        trusting.run("certutil", "-A", *of, "-t", ",,", "-i", folder / f"{name}-server.pem", cwd=tmp_path)
        said[name] = trusting.run("certutil", "-V", *of, "-u", "V", cwd=tmp_path, check=False)
    assert "certificate is valid" in said["known"]
    assert "issuer is not recognized" in said["unknown"].lower()


def test_anchors_are_read_and_nothing_else(trusting: Service) -> None:
    with trusting.client() as client:
        session = client.open(0)
        (anchor,) = client.find(session, CLASS=Cko.CERTIFICATE, TRUSTED=1)
        (trust,) = client.find(session, CLASS=Cko.NSS_TRUST)
        (_,) = client.find(session, CLASS=Cko.NSS_BUILTIN_ROOT_LIST)
        for one in (anchor, trust):
            with pytest.raises(CkrError, match=f"^{Ckr.ACTION_PROHIBITED.value:#x}$"):
                client.call("C_DestroyObject", u(session), u(one))
            with pytest.raises(CkrError, match=f"^{Ckr.ATTRIBUTE_READ_ONLY.value:#x}$"):
                client.call("C_SetAttributeValue", u(session), u(one), template(LABEL=b"mine"))
            with pytest.raises(CkrError, match=f"^{Ckr.KEY_HANDLE_INVALID.value:#x}$"):
                client.call("C_SignInit", u(session), client.mechanism(0x1041, plain=True), u(one))


def test_what_is_taken_out_of_a_trust_store_is_trusted_no_more(trusting: Service, folder: Path) -> None:
    der = (folder / "unknown.der").read_bytes()
    with trusting.client() as client, trusting.lab.stack() as stack:
        session = client.open(0)
        assert client.find(session, VALUE=der) == []
        stack.add_anchors("anchors", der)
        (added,) = client.find(session, VALUE=der, TRUSTED=1)
        stack.remove_anchors("anchors", [hashlib.sha256(der).digest()])
        assert client.find(session, VALUE=der) == []
        with pytest.raises(CkrError, match=f"^{Ckr.OBJECT_HANDLE_INVALID.value:#x}$"):
            client.attributes(session, added, Cka.TRUSTED)


def test_a_trust_store_that_was_changed_outside_is_not_believed_and_keeps_nobody_from_keys(folder: Path) -> None:
    with start(f'trust_stores = ["{STORE}"]', LabOptions(tpm=False)) as lab, lab.stack() as stack:
        service = Service(lab)
        stack.create_trust_store("anchors", (folder / "known.der").read_bytes())
        with service.client() as client:
            assert client.find(client.open(0), CLASS=Cko.CERTIFICATE, TRUSTED=1)
        with closing(sqlite3.connect(lab.directory / "state" / "store.sqlite", timeout=10)) as connection, connection:
            assert connection.execute("UPDATE certificates SET generation = generation + 1").rowcount == 1
        stack.create_slot("web", "EC-P256", KeyOperationPermission.SIGN, providers=["software"])
        with service.client() as client:
            session = client.open(0)
            assert client.find(session, CLASS=Cko.PRIVATE_KEY)
            assert not client.find(session, TRUSTED=1)
