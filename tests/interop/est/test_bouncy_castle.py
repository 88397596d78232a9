"""Bouncy Castle's EST client, fetched by Maven, against our server. Needs a JDK, Maven and its repository: `--all`."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from est.ca.profile import Profile
from tests.integration.est.lab import USERS, make_site

HERE = Path(__file__).parent / "bouncycastle"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.all
@pytest.mark.timeout(600)
def test_bouncy_castle_enrols_and_renews(tmp_path: Path) -> None:
    run("mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={tmp_path}")
    # Its reader of challenges wants every value in quotes, which RFC 7616 forbids for "algorithm": Basic alone.
    site = make_site(Profile(key="EC-P256"), digest=False)
    (tmp_path / "root.pem").write_bytes(site.root.certificate.public_bytes(serialization.Encoding.PEM))
    with site.serving() as listener:
        server = f"localhost:{listener.port}"
        source = str(HERE / "Enrol.java")
        shown = run("java", "-cp", f"{tmp_path}/*", source, server, f"{tmp_path}/root.pem", "device", USERS["device"])
    assert shown.splitlines() == [
        "cacerts 2",
        "csrattrs 1",
        "simpleenroll CN=by-bouncy-castle",
        "simplereenroll CN=by-bouncy-castle",
    ]
    requesters = [one.requester for one in site.authority.record.certificates()]
    assert requesters[-2:] == ["user:device", "certificate:CN=by-bouncy-castle"]
