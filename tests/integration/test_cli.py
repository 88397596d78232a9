"""The commands against a real daemon over SoftHSM, swtpm and software keys, checked with openssl."""

import base64
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from hsmbridge.lab.lab import Lab
from tests.unit.cli.command import Ended, hsmbridge

PROVIDERS = ("software", "softhsm", "tpm")
_numbers = count()


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    (made / "letter").write_bytes(b"Dear openssl,\n" * 100)
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
    assert (ended.problem["status"], ended.code, ended.problem["exit_code"]) == (status, code, code)
    return str(ended.problem["message"])


def new_slot(key_type: str, permissions: str, provider: str = "software", *options: str) -> str:
    name = f"cli-{next(_numbers)}"
    done("slot", "create", name, "--provider", provider, "--key-type", key_type, "--permissions", permissions, *options)
    return name


def openssl(*arguments: object) -> bytes:
    ended = subprocess.run(["/usr/bin/openssl", *map(str, arguments)], capture_output=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def public_key(slot: str, folder: Path) -> Path:
    done("slot", "show", slot, "--public-key", "pem", "--out", folder / "public.pem")
    return folder / "public.pem"


# Signatures and MACs


@pytest.mark.parametrize("provider", PROVIDERS)
def test_openssl_verifies_what_is_signed(provider: str, folder: Path) -> None:
    slot = new_slot("EC-P256", "sign,verify", provider)
    done("sign", "--slot", slot, "--algorithm", "ECDSA-P256-SHA256", "--in", folder / "letter", "--out", folder / "sig")
    key = public_key(slot, folder)
    verified = openssl("dgst", "-sha256", "-verify", key, "-signature", folder / "sig", folder / "letter")
    assert verified == b"Verified OK\n"
    ended = done("verify", "--slot", slot, "--in", folder / "letter", "--signature", folder / "sig")
    assert ended.text == "the signature is valid (ECDSA-P256-SHA256, key version 1)\n"


def test_a_wrong_signature_ends_with_1(folder: Path) -> None:
    slot = new_slot("EC-P256", "sign,verify")
    done("sign", "--slot", slot, "--in", folder / "letter", "--out", folder / "sig")
    refused("SIGNATURE_INVALID", 1, "verify", "--slot", slot, "--signature", folder / "sig", stdin=b"another")


def test_stdin_and_stdout_are_files_too(folder: Path) -> None:
    slot = new_slot("Ed25519", "sign,verify")
    signature = done("sign", "--slot", slot, stdin=b"message").stdout
    (folder / "sig").write_bytes(signature)
    assert len(signature) == 64
    found = done("verify", "--slot", slot, "--signature", folder / "sig", "--json", stdin=b"message").json
    assert found == {"slot": slot, "algorithm": "Ed25519", "version": 1, "valid": True}


def test_with_json_a_signature_stands_in_the_document(folder: Path) -> None:
    slot = new_slot("EC-P256", "sign,verify")
    document = done("sign", "--slot", slot, "--json", stdin=b"message").json
    assert (document["algorithm"], document["version"]) == ("ECDSA-P256-SHA256", 1)
    (folder / "sig").write_bytes(base64.b64decode(document["signature"]))
    done("verify", "--slot", slot, "--signature", folder / "sig", stdin=b"message")
    document = done("sign", "--slot", slot, "--json", "--out", folder / "other", stdin=b"message").json
    assert document["out"] == str(folder / "other")
    assert "signature" not in document


def test_a_mac_is_verified_like_a_signature(folder: Path) -> None:
    slot = new_slot("HMAC-SHA256", "sign,verify")
    done("mac", "--slot", slot, "--out", folder / "mac", stdin=b"message")
    assert "the MAC is valid" in done("verify", "--slot", slot, "--signature", folder / "mac", stdin=b"message").text
    refused("SIGNATURE_INVALID", 1, "verify", "--slot", slot, "--signature", folder / "mac", stdin=b"another")


def test_an_rsa_slot_needs_to_be_told_how(folder: Path) -> None:
    slot = new_slot("RSA-2048", "sign,verify")
    assert "RSA-PSS-SHA256" in refused("INVALID_ARGUMENT", 11, "sign", "--slot", slot, stdin=b"message")
    done("sign", "--slot", slot, "--algorithm", "RSA-PSS-SHA256", "--out", folder / "sig", stdin=b"message")


# Encryption


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_rsa_slot_decrypts_what_openssl_encrypted(provider: str, folder: Path) -> None:
    slot = new_slot("RSA-2048", "encrypt,decrypt", provider)
    (folder / "plain").write_bytes(b"session key")
    openssl(
        *("pkeyutl", "-encrypt", "-pubin", "-inkey", public_key(slot, folder), "-in", folder / "plain"),
        *("-out", folder / "cipher", "-pkeyopt", "rsa_padding_mode:oaep"),
        *("-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256"),
    )
    # SoftHSM 2 has OAEP with SHA-1 alone.
    algorithm = "RSA-OAEP-SHA256"
    if provider == "softhsm":
        openssl(
            *("pkeyutl", "-encrypt", "-pubin", "-inkey", folder / "public.pem", "-in", folder / "plain"),
            *("-out", folder / "cipher", "-pkeyopt", "rsa_padding_mode:oaep"),
        )
        algorithm = "RSA-OAEP-SHA1"
    ended = done("decrypt", "--slot", slot, "--algorithm", algorithm, "--in", folder / "cipher")
    assert ended.stdout == b"session key"


@pytest.mark.parametrize("size", [0, 1, 61_440, 200_000])
def test_a_file_comes_back_and_needs_no_slot_to_be_named(size: int, folder: Path) -> None:
    slot = new_slot("AES-256", "encrypt,decrypt")
    (folder / "plain").write_bytes(os.urandom(size))
    done("encrypt", "--slot", slot, "--in", folder / "plain", "--out", folder / "cipher")
    assert (folder / "cipher").read_bytes().startswith(b"HSMBFIL1")
    done("decrypt", "--in", folder / "cipher", "--out", folder / "back")
    assert (folder / "back").read_bytes() == (folder / "plain").read_bytes()
    assert stat.S_IMODE((folder / "back").stat().st_mode) == 0o600


def test_a_file_decrypts_after_a_rotation(folder: Path) -> None:
    slot = new_slot("AES-256", "encrypt,decrypt,generate")
    done("encrypt", "--slot", slot, "--out", folder / "first", stdin=b"first")
    done("slot", "rotate", slot)
    assert done("encrypt", "--slot", slot, "--out", folder / "second", "--json", stdin=b"second").json["version"] == 2
    assert done("decrypt", "--in", folder / "first").stdout == b"first"
    assert done("decrypt", "--in", folder / "second").stdout == b"second"


@pytest.mark.parametrize("position", [-1, -20, 60, 30])
def test_a_file_that_was_changed_is_refused_and_nothing_is_written(position: int, folder: Path) -> None:
    slot = new_slot("AES-256", "encrypt,decrypt")
    done("encrypt", "--slot", slot, "--out", folder / "cipher", stdin=b"plain" * 100)
    data = bytearray((folder / "cipher").read_bytes())
    data[position] ^= 1
    (folder / "cipher").write_bytes(data)
    refused("DECRYPTION_FAILED", 14, "decrypt", "--slot", slot, "--in", folder / "cipher", "--out", folder / "back")
    assert not (folder / "back").exists()


def test_associated_data_must_be_the_same(folder: Path) -> None:
    slot = new_slot("AES-256", "encrypt,decrypt")
    (folder / "aad").write_bytes(b"label")
    done("encrypt", "--slot", slot, "--aad-file", folder / "aad", "--out", folder / "cipher", stdin=b"plain")
    assert done("decrypt", "--in", folder / "cipher", "--aad-file", folder / "aad").stdout == b"plain"
    refused("DECRYPTION_FAILED", 14, "decrypt", "--in", folder / "cipher")


def test_raw_is_nonce_ciphertext_and_tag(folder: Path) -> None:
    slot = new_slot("AES-256", "encrypt,decrypt")
    done("encrypt", "--slot", slot, "--raw", "--out", folder / "cipher", stdin=b"plain")
    assert len((folder / "cipher").read_bytes()) == 12 + 5 + 16
    assert done("decrypt", "--slot", slot, "--raw", "--in", folder / "cipher").stdout == b"plain"
    refused("INVALID_ARGUMENT", 11, "decrypt", "--in", folder / "cipher")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is longer than one call takes."""
    file = tmp_path_factory.mktemp("large") / "data"
    file.write_bytes(os.urandom(1 << 20) * 17 + b"the end")
    return file


def test_a_file_that_is_longer_than_a_call_takes_comes_back(folder: Path, large: Path) -> None:
    slot = new_slot("AES-256", "encrypt,decrypt")
    done("encrypt", "--slot", slot, "--in", large, "--out", folder / "cipher")
    done("decrypt", "--in", folder / "cipher", "--out", folder / "plain")
    assert (folder / "plain").read_bytes() == large.read_bytes()
    assert (folder / "plain").stat().st_mode & 0o777 == 0o600
    damaged = bytearray((folder / "cipher").read_bytes())
    damaged[-1] ^= 1
    (folder / "cipher").write_bytes(damaged)
    refused("DECRYPTION_FAILED", 14, "decrypt", "--in", folder / "cipher", "--out", folder / "none")
    assert not (folder / "none").exists()
    (folder / "cipher").write_bytes(damaged[: len(damaged) // 61_468 * 61_468])
    refused("DECRYPTION_FAILED", 14, "decrypt", "--in", folder / "cipher", "--out", folder / "none")


def test_bare_bytes_that_are_longer_than_a_call_takes_come_back(folder: Path, large: Path) -> None:
    slot = new_slot("AES-256", "encrypt,decrypt")
    done("encrypt", "--raw", "--slot", slot, "--in", large, "--out", folder / "cipher")
    assert (folder / "cipher").stat().st_size == large.stat().st_size + 12 + 16
    done("decrypt", "--raw", "--slot", slot, "--in", folder / "cipher", "--out", folder / "plain")
    assert (folder / "plain").read_bytes() == large.read_bytes()


def test_long_input_is_signed_hashed_and_authenticated(folder: Path, large: Path) -> None:
    data = large.read_bytes()
    assert done("digest", "--in", large).stdout.strip() == hashlib.sha256(data).hexdigest().encode()
    assert done("digest", stdin=data).stdout.strip() == hashlib.sha256(data).hexdigest().encode()
    for key_type, command in (("EC-P256", "sign"), ("HMAC-SHA256", "mac")):
        slot = new_slot(key_type, "sign,verify")
        done(command, "--slot", slot, "--in", large, "--out", folder / "proof")
        done("verify", "--slot", slot, "--in", large, "--signature", folder / "proof")
        refused("SIGNATURE_INVALID", 1, "verify", "--slot", slot, "--signature", folder / "proof", stdin=data[:-1])


def test_a_file_of_just_that_size_comes_back(folder: Path) -> None:
    slot = new_slot("AES-256", "encrypt,decrypt")
    data = os.urandom(1 << 20) * 16
    (folder / "large").write_bytes(data)
    done("encrypt", "--slot", slot, "--in", folder / "large", "--out", folder / "cipher")
    done("decrypt", "--in", folder / "cipher", "--out", folder / "back")
    assert (folder / "back").read_bytes() == data


# Keys from keys


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_agreed_key_is_the_one_that_openssl_agrees(provider: str, folder: Path) -> None:
    ours = new_slot("EC-P256", "derive", provider, "--derive-to-software")
    session = new_slot("HMAC-SHA256", "sign,verify", "software", "--empty")
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", folder / "theirs.pem")
    openssl("pkey", "-in", folder / "theirs.pem", "-pubout", "-out", folder / "theirs.pub")
    made = done(
        *("agree", "--slot", ours, "--peer-public-key", folder / "theirs.pub", "--into", session),
        *("--kdf", "hkdf", "--hash", "sha256", "--salt-hex", "00ff", "--info", "session", "--json"),
    ).json
    assert made == {"slot": session, "version": 1}
    mac = done("mac", "--slot", session, stdin=b"message").stdout
    secret = openssl("pkeyutl", "-derive", "-inkey", folder / "theirs.pem", "-peerkey", public_key(ours, folder))
    key = openssl(
        *("kdf", "-keylen", 32, "-binary", "-kdfopt", "digest:SHA256", "-kdfopt", f"hexkey:{secret.hex()}"),
        *("-kdfopt", "hexsalt:00ff", "-kdfopt", "info:session", "HKDF"),
    )
    (folder / "message").write_bytes(b"message")
    theirs = openssl(
        *("mac", "-binary", "-digest", "SHA256", "-macopt", f"hexkey:{key.hex()}", "-in", folder / "message", "HMAC")
    )
    assert mac == theirs


def test_both_ends_of_a_kem_share_a_secret(folder: Path) -> None:
    slot = new_slot("ML-KEM-768", "encapsulate,decapsulate")
    session = new_slot("SECRET-256", "sign,verify", "software", "--empty")
    done("encapsulate", "--slot", slot, "--ciphertext-out", folder / "ct", "--secret-out", folder / "secret")
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
    assert (
        done("decapsulate", "--slot", slot, "--in", folder / "ct", "--secret-out", "-").stdout
        == (folder / "secret").read_bytes()
    )
    done("decapsulate", "--slot", slot, "--in", folder / "ct", "--into", session)
    mac = done("mac", "--slot", session, "--algorithm", "HMAC-SHA256", stdin=b"message").stdout
    (folder / "message").write_bytes(b"message")
    key = (folder / "secret").read_bytes().hex()
    assert mac == openssl(
        *("mac", "-binary", "-digest", "SHA256", "-macopt", f"hexkey:{key}", "-in", folder / "message", "HMAC")
    )


def test_a_secret_goes_to_one_place_that_is_named() -> None:
    slot = new_slot("ML-KEM-768", "encapsulate,decapsulate")
    assert "--secret-out" in refused("INVALID_ARGUMENT", 11, "encapsulate", "--slot", slot)


def test_a_derived_key_goes_into_a_slot() -> None:
    kem = new_slot("ML-KEM-768", "encapsulate,decapsulate")
    root = new_slot("SECRET-256", "derive", "software", "--empty")
    into = new_slot("AES-256", "encrypt,decrypt", "software", "--empty")
    done("encapsulate", "--slot", kem, "--ciphertext-out", "/dev/null", "--into", root)
    assert "version 1 of slot" in done("derive", "--slot", root, "--into", into, "--kdf", "hkdf", "--info", "x").text
    sealed = done("encrypt", "--slot", into, stdin=b"plain").stdout
    assert done("decrypt", "--slot", into, stdin=sealed).stdout == b"plain"


def test_the_peers_key_may_be_no_certificate(folder: Path) -> None:
    (folder / "peer").write_text("-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n")
    message = refused(
        "INVALID_ARGUMENT", 11, "agree", "--slot", "x", "--peer-public-key", folder / "peer", "--into", "y"
    )
    assert "openssl pkey -pubout" in message


# Without a key


def test_a_digest_is_printed_in_hexadecimal(folder: Path) -> None:
    expected = openssl("dgst", "-sha384", "-r", folder / "letter").split()[0].decode()
    assert done("digest", "--algorithm", "SHA-384", "--in", folder / "letter").text == f"{expected}\n"
    assert done("digest", "--algorithm", "SHA-384", "--in", folder / "letter", "--json").json["digest"] == expected


@pytest.mark.parametrize("provider", PROVIDERS)
def test_random_bytes_come_from_the_provider_that_is_named(provider: str) -> None:
    first = done("random", 100, "--provider", provider).stdout
    second = done("random", 100, "--provider", provider).stdout
    assert len(first) == len(second) == 100
    assert first != second


def test_more_random_bytes_than_a_call_gives(folder: Path) -> None:
    done("random", 200_000, "--out", folder / "random")
    assert (folder / "random").stat().st_size == 200_000


# Slots


def test_slot_show_tells_where_a_key_really_lives() -> None:
    for provider, protection in (("software", "file"), ("softhsm", "token"), ("tpm", "token")):
        slot = new_slot("EC-P256", "sign,verify", provider)
        (version,) = done("slot", "show", slot, "--json").json["versions"]
        assert (version["provider"], version["protection"], version["state"]) == (provider, protection, "active")
        assert version["public_key"].startswith("-----BEGIN PUBLIC KEY-----")
        assert version["uri"].startswith("pkcs11:") == (provider == "softhsm")
        text = done("slot", "show", slot).text
        assert protection in text
        assert version["uri"] in text


def test_der_is_what_openssl_makes_of_pem(folder: Path) -> None:
    slot = new_slot("EC-P384", "sign,verify")
    done("slot", "show", slot, "--public-key", "der", "--out", folder / "public.der")
    pem = public_key(slot, folder)
    assert openssl("pkey", "-pubin", "-in", pem, "-outform", "DER") == (folder / "public.der").read_bytes()


def test_a_secret_key_has_no_public_half() -> None:
    slot = new_slot("AES-256", "encrypt,decrypt")
    assert "no public half" in refused("KEY_TYPE_MISMATCH", 11, "slot", "show", slot, "--public-key", "pem")


def test_the_life_of_a_slot() -> None:
    slot = new_slot("EC-P256", "sign,verify,generate")
    rotated = done("slot", "rotate", slot, "--json").json
    assert [version["state"] for version in rotated["versions"]] == ["rotated", "active"]
    revoked = done("slot", "revoke", slot, "--version", 1, "--json").json
    assert [version["state"] for version in revoked["versions"]] == ["revoked", "active"]
    assert slot in done("slot", "list").text
    assert f"uid-{os.getuid()}/{slot}" in [found["name"] for found in done("slot", "list", "--json").json]
    done("slot", "destroy", slot, "--version", 1)
    assert done("slot", "destroy", slot, "--yes", "--json").json["destroyed"] is True
    refused("RESOURCE_NOT_FOUND", 13, "slot", "show", slot)
    refused("RESOURCE_NOT_FOUND", 13, "sign", "--slot", slot, "--algorithm", "ECDSA-P256-SHA256")


def test_a_slot_is_granted_and_taken_away() -> None:
    slot = new_slot("EC-P256", "sign,verify")
    granted = done("slot", "grant", slot, "nobody", "--permissions", "verify", "--json").json
    assert granted["access"][-1] == {"principal": "uid:65534", "role": "use", "permissions": ["verify"]}
    ungranted = done("slot", "ungrant", slot, "uid:65534", "--json").json
    assert [entry["principal"] for entry in ungranted["access"]] == [f"uid:{os.getuid()}"]
    assert "no user 'nobody-there'" in refused("INVALID_ARGUMENT", 11, "slot", "grant", slot, "nobody-there")


@pytest.mark.parametrize(
    ("arguments", "status", "code", "hint"),
    [
        (("create", "x", "--key-type", "EC-P256", "--permissions", "sing"), "INVALID_PERMISSIONS", 11, "'sign'"),
        (("create", "x", "--key-type", "EC-P265", "--permissions", "sign"), "UNKNOWN_KEY_TYPE", 11, "'EC-P256'"),
        (("create", "x" * 65, "--key-type", "EC-P256", "--permissions", "sign"), "INVALID_NAME", 11, "65 characters"),
        (("create", "shm-1", "--key-type", "EC-P256", "--permissions", "sign"), "INVALID_NAME", 11, "reserved"),
        (("create", "x", "--key-type", "AES-256", "--permissions", "wrap,decrypt"), "INVALID_PERMISSIONS", 11, "two"),
        (("show", "nobody"), "RESOURCE_NOT_FOUND", 13, "slot list"),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(arguments: tuple[str, ...], status: str, code: int, hint: str) -> None:
    provider = ("--provider", "software") if arguments[0] == "create" else ()
    assert hint in refused(status, code, "slot", *arguments, *provider)


def test_a_provider_that_is_not_there_is_refused() -> None:
    arguments = ("slot", "create", "x", "--key-type", "EC-P256", "--permissions", "sign")
    refused("PROVIDER_NOT_CONFIGURED", 16, *arguments, "--provider", "hsm9")
    assert "softhsm" in refused("INVALID_ARGUMENT", 11, *arguments)


def test_a_forbidden_use_does_not_reach_the_provider() -> None:
    slot = new_slot("EC-P256", "verify,generate", "softhsm")

    def calls() -> int:
        return int(done("providers", "softhsm", "--json").json["calls"])

    before = calls()
    refused("KEY_OPERATION_NOT_PERMITTED", 14, "sign", "--slot", slot, "--algorithm", "ECDSA-P256-SHA256")
    assert calls() == before


def test_an_algorithm_that_is_not_there_names_the_nearest() -> None:
    slot = new_slot("EC-P256", "sign,verify")
    message = refused("UNKNOWN_ALGORITHM", 11, "sign", "--slot", slot, "--algorithm", "ECDSA-P256-SHA265")
    assert "'ECDSA-P256-SHA256'" in message


# The service


def test_status_says_who_you_are() -> None:
    found = done("status", "--json").json
    assert found["principal"] == f"uid:{os.getuid()}"
    assert found["max_frame"] == 16 << 20
    assert f"uid:{os.getuid()}" in done("status").text


def test_providers_tell_what_they_can_do() -> None:
    found = {provider["name"]: provider for provider in done("providers", "--json").json}
    assert set(found) == set(PROVIDERS)
    assert all(provider["state"] == "available" for provider in found.values())
    assert "sign" in found["tpm"]["algorithms"]["ECDSA-P256-SHA256"]
    assert "EC-P256" in found["softhsm"]["key_types"]
    assert "ECDSA-P256-SHA256" in done("providers", "tpm").text
    refused("PROVIDER_NOT_CONFIGURED", 16, "providers", "hsm9")


def test_the_doctor_finds_a_healthy_service() -> None:
    ended = hsmbridge("doctor", "--json")
    assert ended.code == 0, ended.text
    assert ended.json["healthy"] is True
    subjects = {finding["subject"] for finding in ended.json["findings"]}
    assert {"configuration", "daemon", "store", "provider softhsm"} <= subjects


def test_two_daemons_do_not_share_a_place(the_lab: Lab) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "hsmbridge.cli", "serve", "--config", the_lab.config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 13
    assert "already" in ended.stderr.splitlines()[-1]
