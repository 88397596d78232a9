"""The other side of the demonstration: what the `openssl` command does with keys and files of its own.

Secrets reach it by files and stdin where it takes them so. `openssl kdf` and `openssl mac` take a key from their
arguments and from nowhere else; what stands there is the demonstration's own throw-away secret, and nothing of the
service.
"""

import subprocess
from pathlib import Path

HASHES = {"RSA-OAEP-SHA1": "sha1", "RSA-OAEP-SHA256": "sha256"}


class OpensslFailed(Exception):
    """The command said no; the message is what it printed."""


def openssl(*arguments: str | Path, given: bytes = b"") -> bytes:
    """Run the command; answers what it printed on stdout. Raises OpensslFailed."""
    ended = subprocess.run(("openssl", *arguments), input=given, capture_output=True, timeout=60, check=False)
    if ended.returncode != 0:
        said = (ended.stdout + ended.stderr).decode(errors="replace").strip()
        raise OpensslFailed(f"openssl {arguments[0]}: {said}")
    return ended.stdout


def version() -> str:
    """Such as "OpenSSL 3.0.19"."""
    return " ".join(openssl("version").decode().split()[:2])


def verify(public_key: Path, signature: Path, file: Path) -> None:
    """Raises OpensslFailed unless the signature (SHA-256; ECDSA in DER, RSA in PKCS#1 v1.5) is right."""
    openssl("dgst", "-sha256", "-verify", public_key, "-signature", signature, file)


def encrypt_to(public_key: Path, algorithm: str, file: Path, out: Path) -> None:
    """Encrypt a short file to an RSA key, with one of HASHES."""
    openssl(
        *("pkeyutl", "-encrypt", "-pubin", "-inkey", public_key, "-in", file, "-out", out),
        *("-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", f"rsa_oaep_md:{HASHES[algorithm]}"),
    )


def make_key(private: Path, public: Path) -> None:
    """Make a key pair on P-256."""
    private.touch(mode=0o600)
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)


def agreed_mac(private: Path, peer: Path, info: str, file: Path) -> str:
    """HMAC-SHA256 of a file in hexadecimal, under HKDF-SHA256 of what the two keys agree on."""
    secret = openssl("pkeyutl", "-derive", "-inkey", private, "-peerkey", peer)
    key = openssl(
        *("kdf", "-keylen", "32", "-kdfopt", "digest:SHA256", "-kdfopt", f"hexkey:{secret.hex()}"),
        *("-kdfopt", f"info:{info}", "-binary", "HKDF"),
    )
    mac = openssl("mac", "-digest", "SHA256", "-macopt", f"hexkey:{key.hex()}", "-in", file, "HMAC")
    return mac.decode().strip().lower()
