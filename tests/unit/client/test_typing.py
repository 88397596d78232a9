"""What a type checker says of the client: right uses pass, and each wrong one is found where it stands."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# Lines that end in "# E: code" are wrong, and mypy must say so with that code; all others must pass.
USES = """
from typing import assert_type

from hsmbridge.client import (
    AgreeKeyParams,
    CryptoResourceGuard,
    CryptoStack,
    DeriveKeyParams,
    GenerateKeyParams,
    Hkdf,
    ImportKeyParams,
    Pbkdf2,
    Signature,
    UnwrapKeyParams,
    WrapKeyParams,
)
from hsmbridge.client import KeyOperationPermission as P

GENERATE = GenerateKeyParams(key_type="AES-256", permissions=P.ENCRYPT)
DERIVE = DeriveKeyParams(key_type="AES-256", permissions=P.ENCRYPT, kdf=Hkdf(salt=b"salt"))
AGREE = AgreeKeyParams(key_type="AES-256", permissions=P.ENCRYPT, peer_public_key=b"", kdf=None)
BRING = ImportKeyParams(key_type="AES-256", permissions=P.ENCRYPT, format="raw")
UNWRAP = UnwrapKeyParams(key_type="AES-256", permissions=P.ENCRYPT, algorithm="AES-256-KW")


def forms(stack: CryptoStack, guard: CryptoResourceGuard) -> None:
    assert_type(stack.generate_key(GENERATE), CryptoResourceGuard)
    assert_type(stack.generate_key(GENERATE, slot="s"), int)
    assert_type(stack.derive_key(guard, DERIVE), CryptoResourceGuard)
    assert_type(stack.derive_key("s", DERIVE, slot="s"), int)
    assert_type(stack.agree_key(guard, AGREE), CryptoResourceGuard)
    assert_type(stack.agree_key(guard, AGREE, slot="s"), int)
    assert_type(stack.import_key(BRING, b""), CryptoResourceGuard)
    assert_type(stack.import_key(BRING, memoryview(b""), slot="s"), int)
    assert_type(stack.unwrap_key(guard, UNWRAP, b""), CryptoResourceGuard)
    assert_type(stack.unwrap_key(guard, UNWRAP, b"", slot="s"), int)
    assert_type(stack.slot("s").sign("Ed25519", bytearray()), Signature)


def parameters(stack: CryptoStack, guard: CryptoResourceGuard) -> None:
    stack.generate_key(DERIVE)  # E: call-overload
    stack.generate_key(GENERATE, slot="s", provider="p")  # E: call-overload
    stack.derive_key(guard, AGREE)  # E: call-overload
    stack.agree_key(AGREE, guard)  # E: call-overload
    stack.import_key(BRING, "text")  # E: call-overload
    stack.unwrap_key(guard, WrapKeyParams(algorithm="AES-256-KW"), b"")  # E: call-overload
    stack.wrap_key(guard, guard, UNWRAP)  # E: arg-type
    with stack.generate_key(GENERATE, slot="s"):  # E: attr-defined
        pass
    stack.generate_key(GENERATE) + 1  # E: operator
    GenerateKeyParams("AES-256", P.ENCRYPT)  # E: call-arg
    GenerateKeyParams(key_type="AES-256")  # E: call-arg
    GenerateKeyParams(key_type="AES-256", permissions="encrypt")  # E: arg-type
    DeriveKeyParams(key_type="AES-256", permissions=P.ENCRYPT, kdf=b"salt and label")  # E: arg-type
    Hkdf(iterations=1)  # E: call-arg
    Pbkdf2(salt=b"salt")  # E: call-arg
    GENERATE.permissions = P.DECRYPT  # E: misc
    stack.sign("s", "Ed25519", "text")  # E: arg-type
    stack.sign("s", "Ed25519", b"", timeout="soon")  # E: arg-type
    stack.create_slot("s", "AES-256", P.ENCRYPT, providers=["software"], algorithm="AES-256-GCM")  # E: call-arg
"""


def test_a_wrong_use_is_found(tmp_path: Path) -> None:
    uses = tmp_path / "uses.py"
    uses.write_text(USES)
    checked = subprocess.run(
        (sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--no-pretty", "--hide-error-context", uses),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    said = re.findall(r"^.*?uses\.py:(\d+): error: .*\[([\w-]+)\]$", checked.stdout, re.MULTILINE)
    wanted = [
        (str(number), found[1])
        for number, line in enumerate(USES.splitlines(), start=1)
        if (found := re.search(r"# E: ([\w-]+)$", line))
    ]
    assert sorted(set(said), key=lambda one: int(one[0])) == wanted, checked.stdout + checked.stderr
