"""Published test vectors, asked of the service: a real daemon over its socket, with the public client.

Every algorithm that has some, at every provider that has the algorithm and takes the key in the clear. A vector that is
answered differently is a failure, or a reviewed line in quirks.toml.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hmac

from hsmbridge.client import CryptoStack, ImportKeyParams
from hsmbridge.core.errors import DecryptionFailed, HsmBridgeError, RequestError, SignatureInvalid, Status
from hsmbridge.core.key_types import KEY_TYPES
from tests.conformance.pinned import PINNED, Pinned
from tests.vectors.cases import DecryptCase, DigestCase, Key, MacCase, P, Verdict, judge
from tests.vectors.cavp import SECTION, records
from tests.vectors.key_material import HASHES, aes_key, ec_point, hmac_keys, public_key, seeded_key
from tests.vectors.quirks import FORMS, QUIRKS
from tests.vectors.runner import Tally, run, serves
from tests.vectors.sets import NOT_RUN, SETS, WITHOUT_VECTORS, VectorSet
from tests.vectors.sources import Source, Sources

SOURCES = Sources.found()
PROVIDERS = ("software", "oqs", "softhsm", "tpm")
"""Those that the daemon has, under the names that they have in pinned_rows.toml."""

P256_GENERATOR = (
    bytes.fromhex("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"),
    bytes.fromhex("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"),
)
_SHOWN = 20


@pytest.mark.parametrize(
    ("vectors", "pinned"),
    [
        pytest.param(vectors, PINNED[provider], id=f"{vectors.name}-{provider}")
        for vectors in SETS
        for provider in PROVIDERS
        if SOURCES.path(vectors.source, vectors.path) is not None and serves(PINNED[provider], vectors)
    ],
)
def test_the_service_answers_as_the_vectors_say(
    stack: CryptoStack, vectors: VectorSet, pinned: Pinned, report: Callable[[str, str, Tally], None]
) -> None:
    path = SOURCES.path(vectors.source, vectors.path)
    assert path is not None
    tally = run(stack, pinned, vectors, path.read_bytes())
    report(vectors.name, pinned.backend, tally)
    shown = "\n".join(tally.problems[:_SHOWN])
    assert not tally.problems, f"{len(tally.problems)} of {tally.ran} cases of {vectors.name}:\n{shown}"
    assert tally.ran, f"nothing of {vectors.name} could be asked: {dict(tally.left_out)}"


def test_every_row_of_the_software_provider_has_vectors_or_a_reason() -> None:
    about = {name for vectors in SETS for name in vectors.algorithms}
    claimed = PINNED["software"].operations.keys()
    assert claimed - about - WITHOUT_VECTORS.keys() == set()
    assert about & WITHOUT_VECTORS.keys() == set()


def test_every_file_of_the_package_that_the_table_names_is_there() -> None:
    package = SOURCES.package
    named = {vectors.path for vectors in SETS if vectors.source is Source.PACKAGE}
    assert [name for name in sorted(named) if not (package / name).is_file()] == []
    prefix = f"{Source.PACKAGE}/"
    reasons = [name.removeprefix(prefix) for name in NOT_RUN if name.startswith(prefix)]
    assert [name for name in reasons if not list(package.glob(name))] == []


def test_every_quirk_is_of_a_set_and_a_provider_and_says_why() -> None:
    known = {vectors.name for vectors in SETS}
    for quirk in QUIRKS:
        assert quirk.set in known, quirk
        assert quirk.provider in PROVIDERS, quirk
        assert quirk.why.strip(), quirk
    for form in FORMS:
        assert form.provider in PROVIDERS, form
        assert form.why.strip(), form


def test_a_form_of_keys_that_a_provider_is_said_to_refuse_is_refused(stack: CryptoStack) -> None:
    public = public_key("EC-P256", ec_point("EC-P256", *P256_GENERATOR))
    for form in FORMS:
        keys = {"spki": [public], "seed": [seeded_key(name, bytes(32), P.SIGN) for name in form.key_types]}[form.form]
        for key in keys:
            params = ImportKeyParams(key_type=key.key_type, permissions=key.permissions, format=key.format)
            with pytest.raises(RequestError) as refusal:
                stack.import_key(params, key.material, provider=form.provider)
            assert refusal.value.status in {Status.NOT_SUPPORTED, Status.INVALID_ARGUMENT}


def test_a_vector_that_is_wrong_is_noticed(stack: CryptoStack) -> None:
    digest = DigestCase(test="1", verdict=Verdict.VALID, keys=(), algorithm="SHA-256", message=b"", expected=bytes(32))
    assert judge(digest, digest.ask(stack, "", "software")) == "accepted, with another result"
    key = aes_key(bytes(16), P.SIGN | P.VERIFY)
    assert isinstance(key, Key)
    valid = MacCase(
        test="1",
        verdict=Verdict.VALID,
        keys=(key,),
        algorithm="AES-CMAC",
        message=b"",
        mac=bytes(16),
        expected=bytes(16),
    )
    params = ImportKeyParams(key_type=key.key_type, permissions=key.permissions, format=key.format)
    with stack.import_key(params, key.material, provider="software") as guard:
        with pytest.raises(SignatureInvalid) as refusal:
            valid.ask(stack, guard, "software")
        assert judge(valid, refusal.value).startswith("valid, and refused: SIGNATURE_INVALID")
        right = replace(valid, mac=bytes(stack.mac(guard, "AES-CMAC", b"")))
        assert judge(right, right.ask(stack, guard, "software")) == "accepted, with another result"
        wrong = replace(right, verdict=Verdict.INVALID)
        assert judge(wrong, wrong.ask(stack, guard, "software")) == "invalid, and accepted"


@pytest.mark.parametrize("verdict", [Verdict.INVALID, Verdict.ACCEPTABLE])
def test_a_refusal_for_another_reason_than_the_data_is_no_right_answer(verdict: Verdict) -> None:
    case = DecryptCase(test="1", verdict=verdict, keys=(), algorithm="AES-128-GCM", ciphertext=b"")
    assert judge(case, DecryptionFailed(Status.DECRYPTION_FAILED)) == ""
    assert judge(case, HsmBridgeError(Status.INTERNAL))
    assert judge(case, HsmBridgeError(Status.NOT_SUPPORTED))


def test_records_of_a_text_file_carry_what_stands_above_them() -> None:
    text = """
        # a comment
        [P-256,SHA-256]
        [Alen = 0, Tlen = 16]
        n = 0f
        Count = 0
        Msg = 00

        Result = F (1 - changed)
        Count = 1
        n = 10
        Count = 2
        FAIL
        [Tlen = 4]
        Count = 3
    """
    above = {SECTION: "P-256,SHA-256", "alen": "0", "tlen": "16"}
    assert list(records(text, "count", common=frozenset({"n"}))) == [
        {**above, "n": "0f", "count": "0", "msg": "00", "result": "F (1 - changed)"},
        {**above, "n": "0f", "count": "1"},
        {**above, "n": "10", "count": "2", "fail": ""},
        {**above, "n": "10", "tlen": "4", "count": "3"},
    ]


@pytest.mark.parametrize("size", [0, 1, 20, 32, 48, 65, 66, 137, 200])
@pytest.mark.parametrize("hash_name", HASHES)
def test_every_form_of_an_hmac_key_computes_the_same(hash_name: str, size: int) -> None:
    def mac(key: bytes) -> bytes:
        made = hmac.HMAC(key, HASHES[hash_name])
        made.update(b"message")
        return made.finalize()

    value = bytes(range(1, size + 1))
    keys = hmac_keys(hash_name, value, P.SIGN)
    assert isinstance(keys, tuple)
    assert {mac(key.material) for key in keys} == {mac(value)}
    assert all(len(key.material) == KEY_TYPES[key.key_type].bytes for key in keys)
