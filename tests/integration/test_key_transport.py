"""Keys that come from elsewhere and go there, by command line, against openssl, ssh-keygen and the TPM itself."""

import base64
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_public_key,
)
from tpm2_pytss import ESAPI, ESYS_TR, TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE, TPMA_OBJECT

from hsmbridge.client import CryptoStack, GenerateKeyParams, KeyOperationPermission
from hsmbridge.core.errors import ResourceError, Status
from hsmbridge.lab.lab import Lab
from tests.unit.cli.command import Ended, hsmbridge

P = KeyOperationPermission
MESSAGE = b"Dear openssl,\n" * 10
_numbers = count()


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    (made / "letter").write_bytes(MESSAGE)
    yield made
    shutil.rmtree(made)


@pytest.fixture(autouse=True)
def the_lab(hsmbridge_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("HSMBRIDGE_SOCKET", str(hsmbridge_lab.socket))
    monkeypatch.setenv("HSMBRIDGE_CONFIG", str(hsmbridge_lab.config))
    return hsmbridge_lab


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


def claims(provider: str, algorithm: str, operation: str) -> bool:
    """Whether a provider says that it can; what it does not say, it must refuse."""
    return operation in done("providers", provider, "--json").json["algorithms"].get(algorithm, ())


def name() -> str:
    return f"moved-{next(_numbers)}"


def new_slot(key_type: str, permissions: str, provider: str = "software", *options: str) -> str:
    made = name()
    done("slot", "create", made, "--provider", provider, "--key-type", key_type, "--permissions", permissions, *options)
    return made


def run(*arguments: object, environment: dict[str, str] | None = None) -> bytes:
    ended = subprocess.run(
        list(map(str, arguments)),
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def openssl(*arguments: object, environment: dict[str, str] | None = None) -> bytes:
    return run("/usr/bin/openssl", *arguments, environment=environment)


def verified_by_openssl(key: Path, folder: Path) -> bool:
    return (
        openssl("dgst", "-sha256", "-verify", key, "-signature", folder / "sig", folder / "letter") == b"Verified OK\n"
    )


# Public keys


def test_a_public_key_of_openssl_verifies_in_a_slot(folder: Path) -> None:
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", folder / "key.pem")
    openssl("pkey", "-in", folder / "key.pem", "-pubout", "-out", folder / "public.pem")
    openssl("dgst", "-sha256", "-sign", folder / "key.pem", "-out", folder / "sig", folder / "letter")
    slot = name()
    done("slot", "import", slot, "--in", folder / "public.pem", "--create", "--provider", "software")
    shown = done("slot", "show", slot, "--json").json
    assert shown["key_type"] == "EC-P256"
    assert "sign" not in shown["permissions"]
    assert [one["origin"] for one in shown["versions"]] == ["imported"]
    done("verify", "--slot", slot, "--in", folder / "letter", "--signature", folder / "sig")
    refused("KEY_OPERATION_NOT_PERMITTED", 14, "sign", "--slot", slot, stdin=MESSAGE)


@pytest.mark.parametrize("key_type", ["EC-P256", "EC-P521", "RSA-2048", "Ed25519", "ML-DSA-65"])
@pytest.mark.parametrize("format_", ["pem", "der", "jwk", "cose", "ssh"])
def test_a_public_key_goes_out_and_comes_in_again(key_type: str, format_: str, folder: Path) -> None:
    slot, again = new_slot(key_type, "sign,verify"), name()
    if (key_type, format_) == ("ML-DSA-65", "ssh"):
        message = refused("NOT_SUPPORTED", 11, "slot", "export", slot, "--public", format_)
        assert "OpenSSH" in message
        return
    done("slot", "export", slot, "--public", format_, "--out", folder / "public")
    done("slot", "import", again, "--in", folder / "public", "--create", "--provider", "software")
    keys = [done("slot", "export", one, "--public", "pem").text for one in (slot, again)]
    assert keys[0] == keys[1]


def test_ssh_keygen_reads_what_is_written(folder: Path) -> None:
    slot = new_slot("EC-P256", "sign,verify")
    done("slot", "export", slot, "--public", "ssh", "--out", folder / "key.pub")
    assert b"(ECDSA)" in run("ssh-keygen", "-l", "-f", folder / "key.pub")
    exported = run("ssh-keygen", "-e", "-m", "PKCS8", "-f", folder / "key.pub").decode()
    assert exported.split() == done("slot", "export", slot, "--public", "pem").text.split()


def test_a_jwk_set_has_every_version_that_still_serves() -> None:
    slot = new_slot("EC-P256", "sign,verify,generate")
    done("slot", "rotate", slot)
    done("slot", "rotate", slot)
    done("slot", "revoke", slot, "--version", 2)
    keys = done("slot", "export", slot, "--public", "jwks").json["keys"]
    first, _, third = (
        json.loads(done("slot", "export", slot, "--public", "jwk", "--version", n).text) for n in (1, 2, 3)
    )
    assert keys == [third, first]


def test_with_json_a_public_key_stands_in_the_document(folder: Path) -> None:
    slot = new_slot("EC-P256", "sign,verify")
    document = done("slot", "export", slot, "--public", "der", "--json").json
    pem = done("slot", "export", slot, "--public", "pem", "--json").json
    spki = load_pem_public_key(pem["public_key"].encode()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert base64.b64decode(document["public_key"]) == spki
    document = done("slot", "export", slot, "--public", "cose", "--json", "--out", folder / "key").json
    assert document["out"] == str(folder / "key")


# Private and secret keys that come in


def test_an_encrypted_private_key_of_openssl_signs_in_a_slot(folder: Path) -> None:
    (folder / "passphrase").write_text("correct horse\n")
    (folder / "passphrase").chmod(0o600)
    openssl(
        *("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes-256-cbc"),
        *("-pass", f"file:{folder / 'passphrase'}", "-out", folder / "key.pem"),
    )
    openssl(
        *("pkey", "-in", folder / "key.pem", "-passin", f"file:{folder / 'passphrase'}"),
        *("-pubout", "-out", folder / "public.pem"),
    )
    slot = new_slot("EC-P256", "sign,verify,export", "software", "--empty")
    command = ("slot", "import", slot, "--in", folder / "key.pem")
    assert "--passphrase-file" in refused("INVALID_ARGUMENT", 11, *command)
    (folder / "other").write_text("battery staple\n")
    assert "mode 0600" in refused("INVALID_ARGUMENT", 11, *command, "--passphrase-file", folder / "other")
    (folder / "other").chmod(0o600)
    assert "passphrase" in refused("INVALID_ARGUMENT", 11, *command, "--passphrase-file", folder / "other")
    descriptor = os.open(folder / "passphrase", os.O_RDONLY)
    done(*command, "--passphrase-fd", descriptor)
    done("sign", "--slot", slot, "--in", folder / "letter", "--out", folder / "sig")
    assert verified_by_openssl(folder / "public.pem", folder)


@pytest.mark.parametrize("provider", ["software", "softhsm", "tpm"])
def test_a_private_key_goes_into_every_provider_that_takes_it(provider: str, folder: Path) -> None:
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", folder / "key.pem")
    openssl("pkey", "-in", folder / "key.pem", "-pubout", "-out", folder / "public.pem")
    slot = name()
    command = ("slot", "import", slot, "--in", folder / "key.pem", "--create", "--permissions", "sign,verify")
    ended = hsmbridge(*command, "--provider", provider, "--json")
    if ended.code:
        assert ended.problem["status"] == "NOT_SUPPORTED"
        assert provider != "software"
        return
    done("sign", "--slot", slot, "--in", folder / "letter", "--out", folder / "sig")
    assert verified_by_openssl(folder / "public.pem", folder)


def test_a_private_key_needs_to_be_told_what_it_is_for(folder: Path) -> None:
    openssl("genpkey", "-algorithm", "ED25519", "-out", folder / "key.pem")
    slot = name()
    command = ("slot", "import", slot, "--in", folder / "key.pem", "--create", "--provider", "software")
    assert "--permissions" in refused("INVALID_ARGUMENT", 11, *command)
    wrong = refused("KEY_TYPE_MISMATCH", 11, *command, "--permissions", "sign", "--key-type", "EC-P256")
    assert "Ed25519" in wrong
    refused("RESOURCE_NOT_FOUND", 13, "slot", "show", slot)
    done(*command, "--permissions", "sign,verify")
    refused("RESOURCE_EXISTS", 13, *command, "--permissions", "sign,verify")


def test_an_import_that_fails_leaves_no_slot_behind(folder: Path) -> None:
    openssl("genpkey", "-algorithm", "ED25519", "-out", folder / "key.pem")
    slot = name()
    command = ("slot", "import", slot, "--in", folder / "key.pem", "--create", "--permissions", "sign")
    assert hsmbridge(*command, "--provider", "tpm").code == 11
    refused("RESOURCE_NOT_FOUND", 13, "slot", "show", slot)


def test_a_secret_key_is_imported_as_raw_bytes(folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(range(32)))
    slot = name()
    command = ("slot", "import", slot, "--in", folder / "secret", "--create", "--provider", "software")
    assert "--format raw" in refused("INVALID_ARGUMENT", 11, *command)
    assert "--key-type" in refused("INVALID_ARGUMENT", 11, *command, "--format", "raw", "--permissions", "sign")
    done(*command, "--format", "raw", "--permissions", "sign,verify", "--key-type", "HMAC-SHA256")
    done("mac", "--slot", slot, "--in", folder / "letter", "--out", folder / "mac")
    expected = openssl(
        *("mac", "-digest", "SHA256", "-macopt", f"hexkey:{bytes(range(32)).hex()}", "-in", folder / "letter", "HMAC")
    )
    assert (folder / "mac").read_bytes() == bytes.fromhex(expected.decode())


# Wrapped keys


@pytest.mark.parametrize(
    ("algorithm", "provider", "key_type", "signature"),
    [
        ("AES-256-KWP", "software", "EC-P256", "ECDSA-P256-SHA256"),
        ("AES-256-GCM", "software", "EC-P256", "ECDSA-P256-SHA256"),
        ("AES-256-KWP", "softhsm", "RSA-2048", "RSA-PSS-SHA256"),
        ("AES-256-KWP", "softhsm", "EC-P384", "ECDSA-P384-SHA384"),
    ],
)
def test_a_private_key_leaves_wrapped_and_comes_back(
    algorithm: str, provider: str, key_type: str, signature: str, folder: Path
) -> None:
    kek = new_slot("AES-256", "wrap,unwrap", provider, "--algorithms", algorithm)
    web = new_slot(key_type, "sign,verify,export", provider)
    back = new_slot(key_type, "sign,verify,export", provider, "--empty")
    with_key = ("--slot", kek, "--algorithm", algorithm)
    done("wrap", *with_key, "--wrapped", web, "--out", folder / "wrapped")
    ended = done("unwrap", *with_key, "--in", folder / "wrapped", "--into", back)
    assert "it may not export" in ended.text
    letter = ("--algorithm", signature, "--in", folder / "letter")
    done("sign", "--slot", back, *letter, "--out", folder / "sig")
    done("verify", "--slot", web, *letter, "--signature", folder / "sig")
    # It never leaves again.
    refused("KEY_OPERATION_NOT_PERMITTED", 14, "wrap", *with_key, "--wrapped", back)


def test_what_is_wrapped_is_what_rfc_5649_says(folder: Path) -> None:
    (folder / "kek").write_bytes(bytes(range(32)))
    kek = name()
    done(
        *("slot", "import", kek, "--in", folder / "kek", "--format", "raw", "--key-type", "AES-256", "--create"),
        *("--provider", "software", "--permissions", "wrap,unwrap", "--imported-wrapping-key"),
    )
    web = new_slot("EC-P256", "sign,verify,export")
    done("wrap", "--slot", kek, "--algorithm", "AES-256-KWP", "--wrapped", web, "--out", folder / "wrapped")
    pkcs8 = aes_key_unwrap_with_padding(bytes(range(32)), (folder / "wrapped").read_bytes())
    public = load_der_private_key(pkcs8, None).public_key()
    written = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert written == done("slot", "export", web, "--public", "pem").text
    (folder / "mac").write_bytes(aes_key_wrap_with_padding(bytes(range(32)), b"m" * 32))
    mac = new_slot("HMAC-SHA256", "sign,verify", "software", "--empty")
    done("unwrap", "--slot", kek, "--algorithm", "AES-256-KWP", "--in", folder / "mac", "--into", mac)
    digest = openssl("mac", "-digest", "SHA256", "-macopt", f"key:{'m' * 32}", "-in", folder / "letter", "HMAC")
    assert done("mac", "--slot", mac, "--in", folder / "letter").stdout == bytes.fromhex(digest.decode())


def test_wrapping_is_refused_where_it_is_not_allowed(folder: Path) -> None:
    kek, plain = new_slot("AES-256", "wrap,unwrap"), new_slot("AES-256", "encrypt,decrypt")
    web, fixed = new_slot("EC-P256", "sign,verify,export"), new_slot("EC-P256", "sign,verify")
    how = ("--algorithm", "AES-256-KWP")
    refused("KEY_OPERATION_NOT_PERMITTED", 14, "wrap", "--slot", kek, *how, "--wrapped", fixed)
    refused("KEY_OPERATION_NOT_PERMITTED", 14, "wrap", "--slot", plain, *how, "--wrapped", web)
    refused("RESOURCE_NOT_FOUND", 13, "wrap", "--slot", kek, *how, "--wrapped", "no-such-slot")
    assert "one provider" in refused(
        "NOT_TRANSFERABLE", 13, "wrap", "--slot", kek, *how, "--wrapped", new_slot("EC-P256", "sign,export", "softhsm")
    )
    (folder / "garbage").write_bytes(os.urandom(48))
    back = new_slot("HMAC-SHA256", "sign,verify", "software", "--empty")
    refused("DECRYPTION_FAILED", 14, "unwrap", "--slot", kek, *how, "--in", folder / "garbage", "--into", back)
    (folder / "large").write_bytes(bytes(70_000))
    refused("DATA_TOO_LARGE", 20, "unwrap", "--slot", kek, *how, "--in", folder / "large", "--into", back)
    message = refused("INVALID_ARGUMENT", 11, "wrap", "--slot", kek, "--wrapped", web)
    assert "AES-256-KW, AES-256-KWP" in message


# Ephemeral keys that stay


@pytest.mark.parametrize("provider", ["software", "tpm"])
def test_an_ephemeral_key_is_copied_into_a_slot(hsmbridge_lab: Lab, provider: str) -> None:
    slot = new_slot("EC-P256", "sign,verify", provider, "--empty")
    params = GenerateKeyParams(key_type="EC-P256", permissions=int(P.SIGN | P.VERIFY))
    with CryptoStack(hsmbridge_lab.socket) as stack:
        with stack.generate_key(params, provider=provider) as guard:
            assert stack.persist_key(slot, guard) == 1
            signature = guard.sign("ECDSA-P256-SHA256", MESSAGE)
        assert stack.verify(slot, "ECDSA-P256-SHA256", MESSAGE, signature) == 1
        stack.verify(slot, "ECDSA-P256-SHA256", MESSAGE, stack.sign(slot, "ECDSA-P256-SHA256", MESSAGE))


def test_an_ephemeral_key_that_may_not_leave_stays_in_its_provider(hsmbridge_lab: Lab) -> None:
    params = GenerateKeyParams(key_type="EC-P256", permissions=int(P.SIGN | P.VERIFY))
    with CryptoStack(hsmbridge_lab.socket) as stack:
        other = new_slot("EC-P256", "sign,verify", "software", "--empty")
        with stack.generate_key(params, provider="tpm") as guard, pytest.raises(ResourceError) as refusal:
            stack.persist_key(other, guard)
        assert refusal.value.status is Status.NOT_TRANSFERABLE


@pytest.mark.parametrize(
    ("source", "target"), [("software", "softhsm"), ("softhsm", "software"), ("softhsm", "softhsm")]
)
def test_an_ephemeral_key_that_may_leave_goes_into_any_slot(hsmbridge_lab: Lab, source: str, target: str) -> None:
    slot = new_slot("HMAC-SHA256", "sign,verify", target, "--empty")
    params = GenerateKeyParams(key_type="HMAC-SHA256", permissions=int(P.SIGN | P.VERIFY | P.EXPORT))
    with CryptoStack(hsmbridge_lab.socket) as stack, stack.generate_key(params, provider=source) as guard:
        stack.persist_key(slot, guard)
        guard.verify_mac("HMAC-SHA256", MESSAGE, stack.mac(slot, "HMAC-SHA256", MESSAGE))


def test_one_that_may_not_leave_a_token_without_copies_is_not_transferable(hsmbridge_lab: Lab) -> None:
    slot = new_slot("HMAC-SHA256", "sign,verify", "softhsm", "--empty")
    params = GenerateKeyParams(key_type="HMAC-SHA256", permissions=int(P.SIGN | P.VERIFY))
    with CryptoStack(hsmbridge_lab.socket) as stack, stack.generate_key(params, provider="softhsm") as guard:
        with pytest.raises(ResourceError) as refusal:
            stack.persist_key(slot, guard)
        assert refusal.value.status is Status.NOT_TRANSFERABLE
        assert guard.active


@pytest.mark.parametrize("source", ["software", "softhsm"])
def test_an_elliptic_curve_key_that_may_leave_goes_into_a_token_with_its_public_half(
    hsmbridge_lab: Lab, source: str
) -> None:
    slot = new_slot("EC-P256", "sign,verify", "softhsm", "--empty")
    params = GenerateKeyParams(key_type="EC-P256", permissions=int(P.SIGN | P.VERIFY | P.EXPORT))
    with CryptoStack(hsmbridge_lab.socket) as stack, stack.generate_key(params, provider=source) as guard:
        stack.persist_key(slot, guard)
        assert stack.verify(slot, "ECDSA-P256-SHA256", MESSAGE, guard.sign("ECDSA-P256-SHA256", MESSAGE)) == 1


@pytest.mark.parametrize(
    ("source", "target", "key_type"),
    # SoftHSM does not wrap Edwards keys, and puts zeros after the end of others.
    [("software", "softhsm", "Ed25519"), ("softhsm", "software", "EC-P256")],
)
def test_one_that_the_other_provider_does_not_read_is_not_transferable(
    hsmbridge_lab: Lab, source: str, target: str, key_type: str
) -> None:
    slot = new_slot(key_type, "sign,verify", target, "--empty")
    params = GenerateKeyParams(key_type=key_type, permissions=int(P.SIGN | P.VERIFY | P.EXPORT))
    with CryptoStack(hsmbridge_lab.socket) as stack, stack.generate_key(params, provider=source) as guard:
        with pytest.raises(ResourceError) as refusal:
            stack.persist_key(slot, guard)
        assert refusal.value.status is Status.NOT_TRANSFERABLE
        assert guard.active


# Keys that a token has already


def doctor_of(slot: str) -> str:
    """What the doctor says of a slot."""
    findings = hsmbridge("doctor", "--json").json["findings"]
    return "\n".join(one["message"] for one in findings if one["subject"].endswith(f"/{slot}"))


def test_a_key_in_the_memory_of_the_tpm_is_adopted_by_its_handle(hsmbridge_lab: Lab, folder: Path) -> None:
    assert hsmbridge_lab.tpm is not None
    with ESAPI(hsmbridge_lab.tpm.tcti) as tpm:
        # As tpm2_createprimary and tpm2_evictcontrol do; those leave an object loaded, and a TPM has room for few.
        attributes = TPMA_OBJECT.parse("fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign")
        template = TPM2B_PUBLIC.parse("ecc256:null", objectAttributes=attributes)
        primary, *_ = tpm.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.RH_OWNER)
        tpm.evict_control(ESYS_TR.RH_OWNER, primary, 0x81000042)
        tpm.flush_context(primary)
    slot = name()
    where = ("--provider", "tpm", "--uri", "0x81000042", "--permissions", "sign,verify,export")
    shown = done("slot", "adopt", slot, *where, "--json").json
    assert "export" not in shown["permissions"]
    done("sign", "--slot", slot, "--in", folder / "letter", "--out", folder / "sig")
    done("slot", "export", slot, "--public", "pem", "--out", folder / "public.pem")
    assert verified_by_openssl(folder / "public.pem", folder)
    assert "allows nothing" in doctor_of(slot)
    refused("KEY_MATERIAL_MISSING", 16, "slot", "adopt", name(), "--provider", "tpm", "--uri", "0x81000043")
    refused("RESOURCE_EXISTS", 13, "slot", "adopt", name(), *where)


def test_a_key_made_by_the_tokens_own_tool_is_adopted_by_its_uri(hsmbridge_lab: Lab, folder: Path) -> None:
    token = hsmbridge_lab.token
    run(
        *("pkcs11-tool", "--module", token.module, "--token-label", token.label, "--login", "--pin", "env:TOKEN_PIN"),
        *("--keypairgen", "--key-type", "EC:prime256v1", "--label", "theirs", "--id", "a1b2", "--usage-sign"),
        environment={**token.environment, "TOKEN_PIN": token.pin_file.read_text()},
    )
    slot = name()
    adopt = ("slot", "adopt", slot, "--provider", "softhsm", "--uri", "pkcs11:object=theirs;type=private")
    if not done("providers", "softhsm", "--json").json["adopts"]:
        refused("NOT_SUPPORTED", 11, *adopt)
        return
    shown = done(*adopt, "--json").json
    assert (shown["key_type"], shown["token_label"]) == ("EC-P256", "theirs")
    assert [one["uri"] for one in shown["versions"]] == [""]
    done("sign", "--slot", slot, "--in", folder / "letter", "--out", folder / "sig")
    done("slot", "export", slot, "--public", "pem", "--out", folder / "public.pem")
    assert verified_by_openssl(folder / "public.pem", folder)
    assert "adopted" in doctor_of(slot)
    refused("RESOURCE_EXISTS", 13, "slot", "adopt", name(), *adopt[3:])


def test_software_has_no_keys_of_others() -> None:
    message = refused("NOT_SUPPORTED", 11, "slot", "adopt", name(), "--provider", "software", "--uri", "pkcs11:id=%01")
    assert "but its own" in message
    refused("INVALID_ARGUMENT", 11, "slot", "adopt", name(), "--provider", "tpm")


# The TPM's own keys


def tpm_openssl(lab: Lab, *arguments: object) -> bytes:
    """OpenSSL with its tpm2 provider on the lab's TPM, which has room for three loaded objects of all programs."""
    assert lab.tpm is not None
    # What a new host finds loaded it removes, and it loads nothing before somebody asks for a key.
    lab.wait_until_available(["tpm"], replaced=lab.kill_host("tpm"))
    providers = ("-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2")
    return openssl(arguments[0], *providers, *arguments[1:], environment=dict(lab.tpm.environment))


def test_openssl_signs_with_a_key_file_from_a_slot(hsmbridge_lab: Lab, folder: Path) -> None:
    slot = new_slot("EC-P256", "sign,verify,export", "tpm")
    ended = done("slot", "export", slot, "--format", "tss2", "--out", folder / "key.pem")
    assert "past the daemon" in ended.text
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    tpm_openssl(
        *(hsmbridge_lab, "pkeyutl", "-sign", "-inkey", folder / "key.pem", "-rawin", "-digest", "sha256"),
        *("-in", folder / "letter", "-out", folder / "sig"),
    )
    done("verify", "--slot", slot, "--in", folder / "letter", "--signature", folder / "sig")
    again = refused("RESOURCE_EXISTS", 13, "slot", "adopt", name(), "--provider", "tpm", "--in", folder / "key.pem")
    assert "already" in again


def test_a_key_file_of_openssl_signs_in_a_slot(hsmbridge_lab: Lab, folder: Path) -> None:
    tpm_openssl(
        *(hsmbridge_lab, "genpkey", "-algorithm", "EC", "-pkeyopt", "group:P-256", "-out", folder / "key.pem"),
    )
    slot = name()
    shown = done("slot", "adopt", slot, "--provider", "tpm", "--in", folder / "key.pem", "--json").json
    assert (shown["key_type"], shown["versions"][0]["origin"]) == ("EC-P256", "adopted")
    assert "sign" in shown["permissions"]
    done("sign", "--slot", slot, "--in", folder / "letter", "--out", folder / "sig")
    done("slot", "export", slot, "--public", "pem", "--out", folder / "public.pem")
    assert verified_by_openssl(folder / "public.pem", folder)
    assert "past the daemon" in doctor_of(slot) or "allows nothing" in doctor_of(slot)


def test_without_export_nothing_is_written(folder: Path) -> None:
    slot = new_slot("EC-P256", "sign,verify", "tpm")
    arguments = ("--format", "tss2", "--out", folder / "key.pem")
    refused("KEY_OPERATION_NOT_PERMITTED", 14, "slot", "export", slot, *arguments)
    assert not (folder / "key.pem").exists()
    soft = new_slot("EC-P256", "sign,verify,export")
    refused("NOT_SUPPORTED", 11, "slot", "export", soft, *arguments)
    refused("INVALID_ARGUMENT", 11, "slot", "export", soft)


def test_the_tpm_attests_its_key(folder: Path) -> None:
    slot = new_slot("EC-P256", "sign,verify", "tpm")
    nonce = os.urandom(16)
    done("slot", "attest", slot, "--nonce", nonce.hex(), "--out", folder / "attested")
    statement = (folder / "attested/statement").read_bytes()
    assert nonce in statement
    signer = load_pem_public_key((folder / "attested/attestation-key.pem").read_bytes())
    assert isinstance(signer, ec.EllipticCurvePublicKey)
    signer.verify((folder / "attested/signature").read_bytes(), statement, ec.ECDSA(SHA256()))
    document = done("slot", "attest", slot, "--nonce", nonce.hex(), "--json").json
    assert document["public_key"] == done("slot", "export", slot, "--public", "pem").text
    assert document["quote"] is None
    done("slot", "attest", slot, "--nonce", nonce.hex(), "--pcrs", "16, 0", "--out", folder / "quoted")
    quote = (folder / "quoted/quote").read_bytes()
    signer.verify((folder / "quoted/quote-signature").read_bytes(), quote, ec.ECDSA(SHA256()))
    assert nonce in quote
    lines = [line.split() for line in (folder / "quoted/pcrs").read_text().splitlines()]
    assert [number for number, _ in lines] == ["0", "16"]
    assert quote.endswith(sha256(b"".join(bytes.fromhex(value) for _, value in lines)).digest())
    for wrong in ("x", "24", "-1"):
        refused("INVALID_ARGUMENT", 11, "slot", "attest", slot, "--nonce", nonce.hex(), "--pcrs", wrong, "--json")
    refused("INVALID_ARGUMENT", 11, "slot", "attest", slot, "--nonce", "00", "--out", folder / "attested")
    soft = new_slot("EC-P256", "sign,verify")
    refused("NOT_SUPPORTED", 11, "slot", "attest", soft, "--nonce", nonce.hex(), "--out", folder / "attested")
