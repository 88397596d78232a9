"""The rows of the demonstration: each does one thing on one provider and says what proves it.

A row returns the sentence for the column "verified by", and raises where what it shows is not so.
"""

from dataclasses import dataclass, field
from pathlib import Path

from hsmbridge.core.errors import STATUS_TABLE, Status
from hsmbridge.lab.lab import Lab
from tests.demo import openssl
from tests.demo.service import Service

INFO = "hsmbridge demo"
_NOT_PERMITTED = STATUS_TABLE[Status.KEY_OPERATION_NOT_PERMITTED].exit_code
_NOT_DECRYPTED = STATUS_TABLE[Status.DECRYPTION_FAILED].exit_code


@dataclass(frozen=True, slots=True)
class Abilities:
    """In what the providers differ.

    Attributes:
        oaep: the RSA-OAEP that it decrypts; SoftHSM knows no other hash than SHA-1 there.
        cipher: key type and algorithm to encrypt a file with; a TPM has no AEAD.
        agreed: options of the slot that agrees; what has no HKDF hands the secret to the daemon.
    """

    oaep: str = "RSA-OAEP-SHA256"
    cipher: tuple[str, str] = ("AES-256", "AES-256-GCM")
    agreed: tuple[str, ...] = ("--derive-to-software",)


ABILITIES = {
    "software": Abilities(agreed=()),
    "softhsm": Abilities(oaep="RSA-OAEP-SHA1"),
    "tpm": Abilities(cipher=("AES-128", "AES-128-CFB")),
}


@dataclass(slots=True)
class Stage:
    """What a row works with.

    Attributes:
        lab: the lab.
        service: the command line over it.
        provider: whose row it is.
        folder: for files of this provider's rows.
        file: the real file.
        openssl: its version, for the table.
    """

    lab: Lab
    service: Service
    provider: str
    folder: Path
    file: Path
    openssl: str = field(default_factory=openssl.version)

    @property
    def abilities(self) -> Abilities:
        return ABILITIES[self.provider]

    def slot(self, purpose: str) -> str:
        """The name of this provider's slot for a purpose."""
        return f"{self.provider}-{purpose}"

    def create(self, purpose: str, key_type: str, permissions: str, *options: str) -> str:
        """Make such a slot; answers its name."""
        self.service.create(self.slot(purpose), self.provider, key_type, permissions, *options)
        return self.slot(purpose)

    def public_key(self, purpose: str) -> Path:
        """The public key of such a slot, as a PEM file."""
        return self.service.save_public_key(self.slot(purpose), self.folder / f"{purpose}.pem")


def sign_with_ec(stage: Stage) -> str:
    """Sign a file with ECDSA on P-256."""
    stage.create("ec", "EC-P256", "sign,verify")
    return _sign(stage, "ec", "ECDSA-P256-SHA256")


def sign_with_rsa(stage: Stage) -> str:
    """Sign a file with RSA-2048, PKCS#1 v1.5."""
    stage.create("rsa", "RSA-2048", "sign,verify")
    return _sign(stage, "rsa", "RSA-PKCS1-SHA256")


def _sign(stage: Stage, purpose: str, algorithm: str) -> str:
    signature = stage.folder / f"{purpose}.sig"
    stage.service.run(
        *("sign", "--slot", stage.slot(purpose), "--algorithm", algorithm, "--in", stage.file, "--out", signature)
    )
    openssl.verify(stage.public_key(purpose), signature, stage.file)
    other = stage.folder / "changed"
    other.write_bytes(stage.file.read_bytes() + b"!")
    try:
        openssl.verify(stage.folder / f"{purpose}.pem", signature, other)
    except openssl.OpensslFailed:
        return "openssl dgst -verify; a changed file fails"
    raise AssertionError("openssl verified the signature over another file")


def decrypt_from_openssl(stage: Stage) -> str:
    """Decrypt with an RSA slot what openssl encrypted."""
    algorithm = stage.abilities.oaep
    stage.create("oaep", "RSA-2048", "decrypt")
    secret, sealed, opened = (stage.folder / name for name in ("secret", "secret.oaep", "secret.opened"))
    secret.write_bytes(stage.file.read_bytes()[:60])
    openssl.encrypt_to(stage.public_key("oaep"), algorithm, secret, sealed)
    stage.service.run(
        *("decrypt", "--slot", stage.slot("oaep"), "--algorithm", algorithm, "--in", sealed, "--out", opened)
    )
    assert opened.read_bytes() == secret.read_bytes(), "what was decrypted is not what was encrypted"
    return f"openssl pkeyutl -encrypt, {algorithm[4:]}"


def agree_a_mac_key(stage: Stage) -> str:
    """Agree a key with openssl (ECDH, HKDF), and compare the MAC of a file under it."""
    stage.create("ecdh", "EC-P256", "derive", *stage.abilities.agreed)
    stage.service.create(stage.slot("mac"), "software", "HMAC-SHA256", "sign,verify", "--empty")
    private, peer = stage.folder / "peer.key", stage.folder / "peer.pem"
    openssl.make_key(private, peer)
    stage.service.run(
        *("agree", "--slot", stage.slot("ecdh"), "--peer-public-key", peer, "--into", stage.slot("mac")),
        *("--kdf", "hkdf", "--hash", "sha256", "--info", INFO),
    )
    ours = stage.folder / "mac"
    stage.service.run(
        *("mac", "--slot", stage.slot("mac"), "--algorithm", "HMAC-SHA256", "--in", stage.file, "--out", ours)
    )
    theirs = openssl.agreed_mac(private, stage.public_key("ecdh"), INFO, stage.file)
    assert ours.read_bytes().hex() == theirs, "openssl computed another MAC"
    where = "; the agreed secret went into the daemon" if stage.abilities.agreed else ""
    return f"openssl pkeyutl -derive, kdf, mac{where}"


def encrypt_a_file(stage: Stage) -> str:
    """Encrypt a file and decrypt it; one that was tampered with is refused."""
    key_type, algorithm = stage.abilities.cipher
    stage.create("aes", key_type, "encrypt,decrypt")
    sealed = stage.folder / "file.enc"
    stage.service.run(
        *("encrypt", "--slot", stage.slot("aes"), "--algorithm", algorithm, "--in", stage.file, "--out", sealed)
    )
    assert stage.file.read_bytes()[:64] not in sealed.read_bytes(), "the plaintext is in the ciphertext"
    _decrypt_the_file(stage)
    if not algorithm.endswith("GCM"):
        return f"{algorithm}, the same file again (a TPM has no AEAD: changes are not noticed)"
    changed = bytearray(sealed.read_bytes())
    changed[-1] ^= 1
    tampered, opened = stage.folder / "file.tampered", stage.folder / "file.wrong"
    tampered.write_bytes(changed)
    refusal = stage.service.refusal(
        *("decrypt", "--slot", stage.slot("aes"), "--algorithm", algorithm, "--in", tampered, "--out", opened)
    )
    assert refusal.status == _NOT_DECRYPTED, f"refused for another reason: {refusal}"
    assert not opened.exists(), "something was written although the file was tampered with"
    return f"{algorithm}, the same file again; one changed bit is refused"


def _decrypt_the_file(stage: Stage) -> None:
    opened = stage.folder / "file.opened"
    opened.unlink(missing_ok=True)
    stage.service.run(
        *("decrypt", "--slot", stage.slot("aes"), "--algorithm", stage.abilities.cipher[1]),
        *("--in", stage.folder / "file.enc", "--out", opened),
    )
    assert opened.read_bytes() == stage.file.read_bytes(), "what was decrypted is not what was encrypted"


def refuse_a_forbidden_use(stage: Stage) -> str:
    """Refuse to sign with a key that may only agree, before the provider is called."""
    before = stage.service.calls()[stage.provider]
    refusal = stage.service.refusal(
        *("sign", "--slot", stage.slot("ecdh"), "--algorithm", "ECDSA-P256-SHA256", "--in", stage.file),
        *("--out", stage.folder / "forbidden"),
    )
    assert refusal.status == _NOT_PERMITTED, f"refused for another reason: {refusal}"
    after = stage.service.calls()[stage.provider]
    assert after == before, f"the provider was called: {before} calls before, {after} after"
    return f"exit status {refusal.status}; calls before and after: {before}"


def same_slots_work(stage: Stage) -> None:
    """The slots that the rows above made sign and decrypt as before."""
    kept = stage.folder / "ec.pem"
    before = kept.read_bytes()
    for purpose, algorithm in (("ec", "ECDSA-P256-SHA256"), ("rsa", "RSA-PKCS1-SHA256")):
        _sign(stage, purpose, algorithm)
    assert kept.read_bytes() == before, "the slot has another public key"
    _decrypt_the_file(stage)


ROWS = (
    ("sign a file, ECDSA P-256", sign_with_ec),
    ("sign a file, RSA-2048", sign_with_rsa),
    ("decrypt what openssl encrypted, RSA-2048", decrypt_from_openssl),
    ("agree a MAC key, ECDH P-256 and HKDF", agree_a_mac_key),
    ("encrypt and decrypt a file", encrypt_a_file),
    ("forbidden use, refused before the provider", refuse_a_forbidden_use),
)
