"""Runs the openssl command line tool on files of its own."""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path


class Refused(Exception):
    """openssl ended with an error."""


def run(*arguments: str, **files: bytes) -> bytes:
    """What `openssl ARGUMENTS` prints; `{name}` in an argument is the path of the file given as name=content."""
    with tempfile.TemporaryDirectory(prefix="hb", dir="/tmp") as directory:
        paths = _write(Path(directory), files)
        command = ["openssl", *(argument.format_map(paths) for argument in arguments)]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    if done.returncode != 0:
        raise Refused(f"openssl {arguments[0]}: {done.stdout.decode()} {done.stderr.decode()}")
    return done.stdout


def _write(directory: Path, files: Mapping[str, bytes]) -> Mapping[str, str]:
    paths = {}
    for name, content in files.items():
        (directory / name).write_bytes(content)
        paths[name] = str(directory / name)
    return paths


def public_half(pkcs8: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a private key, both DER."""
    return run("pkey", "-in", "{key}", "-inform", "DER", "-pubout", "-outform", "DER", key=pkcs8)


def genpkey(algorithm: str, *options: str) -> bytes:
    """A new private key, PKCS#8 DER."""
    words = [word for option in options for word in ("-pkeyopt", option)]
    # genpkey itself writes DER in the older forms of RSA and EC.
    key = run("genpkey", "-algorithm", algorithm, *words)
    return run("pkcs8", "-topk8", "-nocrypt", "-in", "{key}", "-outform", "DER", key=key)
