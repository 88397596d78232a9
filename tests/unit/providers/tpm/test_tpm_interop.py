"""Our wrapped keys in other programs, and theirs in ours: TSS2 PRIVATE KEY files."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from tpm2_pytss.tsskey import TSSPrivKey

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.tpm import TpmProvider, tss2_private_key_pem
from tests.unit.providers.tpm.conftest import Rig
from tests.unit.providers.tpm.faults import opened
from tests.unit.providers.tpm.keys import SIGNING, Key

MESSAGE = b"a message for another program"


@pytest.fixture
def openssl(rig: Rig, tmp_path: Path) -> Callable[..., bytes]:
    """Runs openssl with its tpm2 provider on the same TPM."""

    def run(*arguments: str, data: bytes = MESSAGE) -> bytes:
        (tmp_path / "data").write_bytes(data)
        return subprocess.run(
            ["openssl", *arguments, "-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2",
             "-inkey", tmp_path / "key.pem", "-in", tmp_path / "data"],
            check=True,
            capture_output=True,
            timeout=60,
            env=os.environ | {"TPM2OPENSSL_TCTI": rig.tcti, "TSS2_LOG": "all+NONE"},
        ).stdout  # fmt: skip

    return run


def export(tpm: TpmProvider, key: Key, tmp_path: Path) -> None:
    opened(tpm).keys.release_all()
    (tmp_path / "key.pem").write_bytes(tss2_private_key_pem(key.made.reference))


@pytest.mark.parametrize("type_", ["EC-P256", "EC-P384", "RSA-2048"])
def test_openssl_signs_with_our_key(
    tpm: TpmProvider, openssl: Callable[..., bytes], tmp_path: Path, type_: str
) -> None:
    key = Key(tpm, type_, SIGNING)
    export(tpm, key, tmp_path)
    signature = openssl("pkeyutl", "-sign", "-rawin", "-digest", "sha256")
    public = load_der_public_key(key.made.public_key)
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, MESSAGE, ec.ECDSA(hashes.SHA256()))
    else:
        assert isinstance(public, rsa.RSAPublicKey)
        public.verify(signature, MESSAGE, padding.PKCS1v15(), hashes.SHA256())


def test_openssl_decrypts_with_our_key(tpm: TpmProvider, openssl: Callable[..., bytes], tmp_path: Path) -> None:
    key = Key(tpm, "RSA-2048", P.DECRYPT)
    export(tpm, key, tmp_path)
    public = load_der_public_key(key.made.public_key)
    assert isinstance(public, rsa.RSAPublicKey)
    ciphertext = public.encrypt(MESSAGE, padding.PKCS1v15())
    assert openssl("pkeyutl", "-decrypt", data=ciphertext) == MESSAGE


def test_a_library_that_knows_the_file_form_loads_our_key(tpm: TpmProvider) -> None:
    key = Key(tpm, "EC-P256", SIGNING)
    pem = tss2_private_key_pem(key.made.reference)
    assert pem.startswith(b"-----BEGIN TSS2 PRIVATE KEY-----")
    place = opened(tpm)
    place.keys.release_all()
    read = TSSPrivKey.from_pem(pem)
    assert read.parent == 0x81000001
    place.esapi.flush_context(place.esapi.load(place.root.handle, read.private, read.public))


def test_our_key_also_loads_under_the_primary_that_others_derive(tpm: TpmProvider) -> None:
    """The storage root key is made by the template that the file form stands for, so a fresh one is the same."""
    key = Key(tpm, "EC-P256", SIGNING)
    place = opened(tpm)
    place.keys.release_all()
    read = TSSPrivKey.from_pem(tss2_private_key_pem(key.made.reference))
    under_owner = TSSPrivKey(read.private, read.public)
    place.esapi.flush_context(under_owner.load(place.esapi))


def test_an_ephemeral_key_is_not_written_to_a_file(shared_tpm: TpmProvider) -> None:
    key = Key(shared_tpm, "EC-P256", SIGNING, ephemeral=True)
    with pytest.raises(RequestError) as refused:
        tss2_private_key_pem(key.made.reference)
    assert refused.value.status is Status.NOT_SUPPORTED
