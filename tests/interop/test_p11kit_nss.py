"""NSS, what Firefox and others are built on: modutil and certutil with our tokens; OpenSSL verifies."""

import os
from pathlib import Path

import pytest

from tests.interop.p11kit_client import MODULE, Service, service
from tests.interop.test_p11kit_java import TOKENS, openssl

__all__ = ["service"]


@pytest.fixture
def database(service: Service, tmp_path: Path) -> Path:
    """A database of NSS that knows our module, and some noise, which certutil insists on."""
    service.run("certutil", "-N", "-d", "sql:.", "--empty-password", cwd=tmp_path)
    service.run("modutil", "-force", "-dbdir", "sql:.", "-add", "hsmbridge", "-libfile", MODULE, cwd=tmp_path)
    (tmp_path / "noise").write_bytes(os.urandom(64))
    return tmp_path


def test_modutil_lists_our_tokens(service: Service, database: Path) -> None:
    listed = service.run("modutil", "-dbdir", "sql:.", "-list", cwd=database)
    for token in TOKENS:
        assert f"token: {token}" in listed


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("key", [("ec", "-q", "nistp256"), ("rsa", "-g", "2048")], ids=["EC", "RSA"])
def test_certutil_requests_lists_and_certifies(
    service: Service, database: Path, token: str, key: tuple[str, str, str]
) -> None:
    of = ("-d", "sql:.", "-h", token)
    made = ("-k", *key, "-z", "noise")
    service.run("certutil", "-R", *of, *made, "-s", "CN=nss.example", "-a", "-o", "nss.csr", cwd=database)
    assert "verify OK" in openssl("req", "-in", "nss.csr", "-noout", "-verify", cwd=database)
    assert "(orphan)" in service.run("certutil", "-K", *of, cwd=database), "a key without a certificate"

    nick = f"own {token} {key[0]}"
    subject = ("-s", f"CN=own {token} {key[0]}", "-m", str(int.from_bytes(os.urandom(3), "big")))
    service.run("certutil", "-S", "-x", *of, "-n", nick, *made, *subject, "-t", ",,", cwd=database)
    listed = service.run("certutil", "-L", *of, cwd=database)
    assert any(line.startswith(f"{token}:{nick} ") and line.endswith("u,u,u") for line in listed.splitlines()), listed
    (database / "own.pem").write_text(service.run("certutil", "-L", *of, "-n", f"{token}:{nick}", "-a", cwd=database))
    openssl("verify", "-CAfile", "own.pem", "own.pem", cwd=database)
    service.run("certutil", "-F", *of, "-n", f"{token}:{nick}", cwd=database)
    assert nick not in service.run("certutil", "-L", *of, cwd=database)
