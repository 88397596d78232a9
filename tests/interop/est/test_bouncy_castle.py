"""Bouncy Castle's EST client against our server."""

import subprocess
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from est.ca.profile import Profile
from tests.integration.est.lab import USERS, make_site

SOURCE = Path(__file__).parent / "bouncycastle" / "Enrol.java"
JARS = ":".join(f"/usr/share/java/{name}.jar" for name in ("bcpkix", "bcprov", "bcutil"))


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_bouncy_castle_enrols_and_renews(tmp_path: Path) -> None:
    run("ecj", "-17", "-proc:none", "-nowarn", "-cp", JARS, "-d", str(tmp_path), str(SOURCE))
    # Its reader of challenges wants every value in quotes, which RFC 7616 forbids for "algorithm": Basic alone.
    site = make_site(Profile(key="EC-P256"), digest=False)
    (tmp_path / "root.pem").write_bytes(site.root.certificate.public_bytes(serialization.Encoding.PEM))
    with site.serving() as listener:
        server = f"localhost:{listener.port}"
        shown = run(
            "java", "-cp", f"{tmp_path}:{JARS}", "Enrol", server, f"{tmp_path}/root.pem", "device", USERS["device"]
        )
    assert shown.splitlines() == [
        "cacerts 2",
        "csrattrs 1",
        "simpleenroll CN=by-bouncy-castle",
        "simplereenroll CN=by-bouncy-castle",
    ]
    requesters = [one.requester for one in site.authority.record.certificates()]
    assert requesters[-2:] == ["user:device", "certificate:CN=by-bouncy-castle"]
