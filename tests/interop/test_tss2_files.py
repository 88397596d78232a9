"""TSS2 PRIVATE KEY files between our slots and OpenSSL's tpm2 provider, both ways, on one simulated TPM.

A file taken from a slot signs in openssl; a key that openssl made is taken into a slot and signs there.
"""

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import key_type
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.lab.lab import Lab
from hsmbridge.providers.tpm import TpmProvider, open_tpm
from hsmbridge.providers.tpm.device import Opened
from tests.unit.cli.command import hsmbridge
from tests.unit.providers.tpm.conftest import Rig, new_rig, rig, tpm

__all__ = ["new_rig", "rig", "tpm"]

MESSAGE = b"a message for another program"
SIGNING = P.SIGN | P.VERIFY
PROVIDERS = ("-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2")
TYPES = {
    "EC-P256": ("ECDSA-P256-SHA256", ("EC", "group:P-256")),
    "EC-P384": ("ECDSA-P384-SHA384", ("EC", "group:P-384")),
    "RSA-2048": ("RSA-PKCS1-SHA256", ("RSA", "bits:2048")),
}


def openssl(tcti: str, *arguments: str | Path) -> bytes:
    """Runs openssl with its tpm2 provider."""
    ended = subprocess.run(
        ["/usr/bin/openssl", *arguments, *PROVIDERS],
        capture_output=True,
        timeout=60,
        check=False,
        env=os.environ | {"TPM2OPENSSL_TCTI": tcti, "TSS2_LOG": "all+NONE"},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def make_key(tcti: str, type_: str, file: Path) -> None:
    algorithm_, option = TYPES[type_][1]
    openssl(tcti, "genpkey", "-algorithm", algorithm_, "-pkeyopt", option, "-out", file)
    assert file.read_bytes().startswith(b"-----BEGIN TSS2 PRIVATE KEY-----")


def sign_by_openssl(tcti: str, key: Path, message: Path) -> bytes:
    return openssl(tcti, "pkeyutl", "-sign", "-rawin", "-digest", "sha256", "-inkey", key, "-in", message)


def verify(public_key: object, signature: bytes, hash_: hashes.HashAlgorithm) -> None:
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        public_key.verify(signature, MESSAGE, ec.ECDSA(hash_))
    else:
        assert isinstance(public_key, rsa.RSAPublicKey)
        public_key.verify(signature, MESSAGE, padding.PKCS1v15(), hash_)


def make_way(provider: TpmProvider) -> None:
    """Leave the TPM's slots to the other program, as a resource manager would."""

    def command(opened: Opened) -> None:
        opened.keys.release_all()

    provider._tpm.run(command)


@pytest.fixture
def message(tmp_path: Path) -> Path:
    (tmp_path / "message").write_bytes(MESSAGE)
    return tmp_path / "message"


# The provider by itself


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("leaves", [False, True], ids=["fixed", "may leave"])
def test_openssl_signs_with_a_file_of_ours(
    tpm: TpmProvider, rig: Rig, tmp_path: Path, message: Path, type_: str, leaves: bool
) -> None:
    permissions = SIGNING | P.EXPORT if leaves else SIGNING
    target = KeyTarget(new_key_id(), type_, permissions, b"slot")
    made = tpm.generate(target)
    handle = tpm.load(target.key_id, key_type(type_), permissions, made.reference, b"slot")
    file = tmp_path / "key.pem"
    file.write_bytes(tpm.export(handle, "tss2", b""))
    make_way(tpm)
    verify(load_der_public_key(made.public_key), sign_by_openssl(rig.tcti, file, message), hashes.SHA256())


@pytest.mark.parametrize("type_", TYPES)
def test_a_key_that_openssl_made_signs_here(tpm: TpmProvider, rig: Rig, tmp_path: Path, type_: str) -> None:
    make_way(tpm)
    file = tmp_path / "key.pem"
    make_key(rig.tcti, type_, file)
    public = load_pem_public_key(openssl(rig.tcti, "pkey", "-in", file, "-pubout"))
    target = KeyTarget(new_key_id(), type_, SIGNING, b"slot")
    made = tpm.adopt(target, "", file.read_bytes())
    assert load_der_public_key(made.public_key) == public
    handle = tpm.load(target.key_id, key_type(type_), SIGNING, made.reference, b"slot")
    row = algorithm(TYPES[type_][0])
    signature = tpm.sign(handle, row, MESSAGE, DEFAULT_SIGNATURE)
    verify(public, signature, hashes.SHA384() if row.hash == "SHA-384" else hashes.SHA256())


# With tpm2-tools, as docs/tpm.md has it


def tpm2(tcti: str, folder: Path, command: str) -> None:
    """Runs a command of tpm2-tools in a folder."""
    name, *arguments = shlex.split(command)
    ended = subprocess.run(
        [f"/usr/bin/{name}", *arguments],
        capture_output=True,
        timeout=60,
        check=False,
        cwd=folder,
        env=os.environ | {"TPM2TOOLS_TCTI": tcti, "TSS2_LOG": "all+NONE"},
    )
    assert ended.returncode == 0, ended.stderr


def test_a_key_that_tpm2_tools_made_persistent_signs_where_it_is(tpm: TpmProvider, rig: Rig, tmp_path: Path) -> None:
    make_way(tpm)
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign"
    for command in (
        f"tpm2_create -C 0x81000001 -G ecc -u key.pub -r key.priv -a '{attributes}'",
        "tpm2_load -C 0x81000001 -u key.pub -r key.priv -c key.ctx",
        "tpm2_evictcontrol -C o -c key.ctx 0x81000010",
        "tpm2_flushcontext -t",
    ):
        tpm2(rig.tcti, tmp_path, command)
    target = KeyTarget(new_key_id(), "EC-P256", SIGNING, b"slot")
    made = tpm.adopt(target, "0x81000010", b"")
    handle = tpm.load(target.key_id, key_type("EC-P256"), SIGNING, made.reference, b"slot")
    signature = tpm.sign(handle, algorithm("ECDSA-P256-SHA256"), MESSAGE, DEFAULT_SIGNATURE)
    verify(load_der_public_key(made.public_key), signature, hashes.SHA256())


def test_a_key_goes_to_another_tpm_that_tpm2_tools_described(
    tpm: TpmProvider, new_rig: Callable[[], Rig], tmp_path: Path
) -> None:
    there = new_rig()
    other = open_tpm(there.settings)
    tpm2(there.tcti, tmp_path, "tpm2_readpublic -c 0x81000001 -o parent.pub")
    permissions = SIGNING | P.EXPORT
    target = KeyTarget(new_key_id(), "EC-P256", permissions, b"slot")
    made = tpm.generate(target)
    handle = tpm.load(target.key_id, key_type("EC-P256"), permissions, made.reference, b"slot")
    file = tpm.export(handle, "tpm2-duplicate", (tmp_path / "parent.pub").read_bytes())
    taken = other.adopt(KeyTarget(new_key_id(), "EC-P256", SIGNING, b"there"), "", file)
    assert taken.public_key == made.public_key
    other.close()


# The commands, against a daemon


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Lab]:
    """A TPM without a resource manager has three slots: no other test's keys may lie in those that openssl needs."""
    with Lab.start() as started:
        yield started


@pytest.fixture
def lab(own_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("HSMBRIDGE_SOCKET", str(own_lab.socket))
    return own_lab


def lab_tcti(lab: Lab) -> str:
    (line,) = (line for line in lab.config.read_text().splitlines() if "tpm:swtpm" in line)
    return line.partition("tpm:")[2].strip().strip('"')


def done(*arguments: object, stdin: bytes = b"") -> bytes:
    ended = hsmbridge(*arguments, stdin=stdin)
    assert ended.code == 0, ended.stderr
    return ended.stdout


def test_openssl_signs_with_a_file_taken_from_a_slot(lab: Lab, tmp_path: Path, message: Path) -> None:
    file = tmp_path / "key.pem"
    done("slot", "create", "tss2-out", "--provider", "tpm", "--key-type", "EC-P256", "--permissions",
         "sign,verify,export")  # fmt: skip
    done("slot", "export", "tss2-out", "--format", "tss2", "--out", file)
    public = load_pem_public_key(done("slot", "export", "tss2-out", "--public", "pem"))
    verify(public, sign_by_openssl(lab_tcti(lab), file, message), hashes.SHA256())


def test_a_key_that_openssl_made_is_taken_into_a_slot_and_signs(lab: Lab, tmp_path: Path, message: Path) -> None:
    file = tmp_path / "key.pem"
    make_key(lab_tcti(lab), "EC-P256", file)
    public = load_pem_public_key(openssl(lab_tcti(lab), "pkey", "-in", file, "-pubout"))
    done("slot", "adopt", "tss2-in", "--provider", "tpm", "--in", file)
    signature = tmp_path / "signature"
    done("sign", "--slot", "tss2-in", "--in", message, "--out", signature)
    verify(public, signature.read_bytes(), hashes.SHA256())
