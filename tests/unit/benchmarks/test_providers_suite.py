"""What `./dev bench providers` says of its figures: a low ratio has a reason that accounts for it, or fails the run."""

import pytest

from benchmarks.measure import Result
from benchmarks.ours import candidates
from benchmarks.providers import OPERATIONS, TRIES, claimed, judged, settled
from benchmarks.reasons import ENOUGH, REASONS, Measured, Reason, duration, reason_for
from benchmarks.table import UNEXPLAINED, Entry, table
from hsmbridge.client import ProviderInfo
from hsmbridge.core.algorithms import ALGORITHMS, KeyOperation, algorithm
from hsmbridge.core.calls import Claim

SIGN, VERIFY = KeyOperation.SIGN, KeyOperation.VERIFY


def _measured(name: str, operation: KeyOperation, ratio: float, direct: float, way: float = 20.0) -> Measured:
    return Measured("software", algorithm(name), operation, ratio, direct, way)


def _result(ours: float, against: float | None, reason: str | None = None) -> Result:
    ratio = None if against is None else ours / against
    return Result("providers", "a case", ours, against, "direct", ratio, "operations/s", 4, None, None, reason)


def _info(*claims: Claim, key_types: tuple[str, ...] = ()) -> ProviderInfo:
    return ProviderInfo("here", "software", "thread", "available", "", 0, 0, None, key_types, claims, ())


# Reasons


def test_a_ratio_that_is_high_enough_needs_no_reason() -> None:
    assert reason_for(_measured("SHA-256", KeyOperation.DIGEST, ENOUGH, 1.0)) is None


def test_a_call_of_a_microsecond_is_low_for_its_way() -> None:
    reason = reason_for(_measured("AES-256-GCM", KeyOperation.DECRYPT, 0.04, 1.0))
    assert reason is not None
    assert "short" in reason


def test_a_long_call_is_not_low_for_its_way() -> None:
    assert reason_for(_measured("RSA-PKCS1-SHA256", SIGN, 0.2, 400.0)) is None


def test_the_way_does_not_excuse_a_ratio_that_is_much_lower_than_it_makes_it() -> None:
    assert reason_for(_measured("ECDSA-P256-SHA256", SIGN, 0.28, 15.0)) is not None
    assert reason_for(_measured("ECDSA-P256-SHA256", SIGN, 0.05, 15.0)) is None


def test_making_a_key_is_two_requests() -> None:
    agreed = reason_for(_measured("ECDH-P256", KeyOperation.AGREE, 0.25, 60.0))
    assert agreed is not None
    assert "two requests" in agreed
    assert reason_for(_measured("ECDSA-P256-SHA256", VERIFY, 0.25, 60.0)) is None


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.why[:20])
def test_every_reason_is_the_first_to_explain_something(reason: Reason) -> None:
    cases = [
        Measured(provider, row, operation, ratio / 100, direct, 20.0)
        for provider in ("software", "oqs", "pkcs11", "tpm")
        for row in ALGORITHMS.values()
        for operation in row.operations
        if operation in OPERATIONS
        for ratio in (1, 5, 10, 15, 20, 25)
        for direct in (1.0, 5.0, 10.0, 20.0, 50.0, 100.0)
    ]
    told = [case for case in cases if next((one for one in REASONS if one.explains(case)), None) is reason]
    assert told, "a reason that is never the first to explain a case is of no use"
    assert reason_for(told[0]) == reason.why


# Judging


def test_a_low_ratio_without_a_reason_does_not_hold() -> None:
    result = judged(_result(500, 2_500), "software", algorithm("RSA-PKCS1-SHA256"), SIGN, way=20.0)
    assert (result.holds, result.reason) == (False, None)


def test_a_low_ratio_with_a_reason_holds() -> None:
    result = judged(_result(20_000, 1_000_000), "software", algorithm("SHA-256"), KeyOperation.DIGEST, way=20.0)
    assert result.holds is True
    assert result.reason


def test_what_has_no_direct_call_is_not_judged() -> None:
    alone = _result(500, None, "no direct call")
    assert judged(alone, "software", algorithm("X-Wing"), KeyOperation.ENCAPSULATE, way=20.0) is alone


def test_a_result_that_a_disturbance_made_low_is_measured_again_with_the_way_of_then() -> None:
    results = iter([_result(500, 2_500), _result(2_000, 2_500)])
    ways: list[float] = []

    def measured(way: float) -> Result:
        ways.append(way)
        return judged(next(results), "software", algorithm("RSA-PKCS1-SHA256"), SIGN, way)

    assert settled(measured, 20.0, lambda: 40.0).holds is True
    assert ways == [20.0, 40.0]


def test_a_result_that_stays_low_without_a_reason_does_not_hold() -> None:
    ways: list[float] = []

    def measured(way: float) -> Result:
        ways.append(way)
        return judged(_result(500, 2_500), "software", algorithm("RSA-PKCS1-SHA256"), SIGN, way)

    assert settled(measured, 20.0, lambda: 20.0).holds is False
    assert len(ways) == TRIES


# Cases


def test_cases_are_what_a_provider_claims_and_no_more() -> None:
    info = _info(Claim("AES-256-GCM", ("encrypt", "decrypt", "wrap", "unwrap")), Claim("Ed25519", ("verify",)))
    assert [(row.name, operation.value) for row, operation in claimed(info)] == [
        ("AES-256-GCM", "encrypt"),
        ("AES-256-GCM", "decrypt"),
        ("Ed25519", "verify"),
    ]


def test_keys_are_of_types_that_the_provider_generates() -> None:
    info = _info(key_types=("RSA-3072", "SECRET-128", "SECRET-256"))
    assert [row.name for row in candidates(info, algorithm("RSA-PSS-SHA256"))] == ["RSA-3072"]
    assert next(row.name for row in candidates(info, algorithm("HKDF-SHA256"))) == "SECRET-256"
    assert list(candidates(info, algorithm("Ed25519"))) == []


# The table


def test_the_table_has_a_line_an_algorithm_and_each_reason_once() -> None:
    entries = [
        Entry("software", "Ed25519", "sign", _result(10_000, 20_000)),
        Entry("software", "Ed25519", "verify", _result(8_000, 10_000)),
        Entry("software", "SHA-1", "digest", _result(10_000, 1_000_000, "it is short")),
        Entry("software", "SHA-256", "digest", _result(10_000, 1_000_000, "it is short")),
        Entry("oqs", "ML-KEM-512", "decapsulate", _result(10_000, None, "no direct call")),
    ]
    lines = list(table(entries))
    assert lines[1:4] == [
        "",
        "software",
        "  Ed25519  sign 0.50 (100 µs / 50 µs)    verify 0.80 (125 µs / 100 µs)",
    ]
    assert sum("it is short" in line for line in lines) == 1
    assert "  ML-KEM-512  decapsulate -a (100 µs / -)" in lines


def test_the_table_shows_what_nothing_explains() -> None:
    unexplained = judged(_result(500, 2_500), "software", algorithm("RSA-PKCS1-SHA256"), SIGN, way=20.0)
    assert any(UNEXPLAINED in line for line in table([Entry("software", "RSA-PKCS1-SHA256", "sign", unexplained)]))


@pytest.mark.parametrize(
    ("microseconds", "shown"), [(1.234, "1.23 µs"), (27, "27 µs"), (999.6, "1 ms"), (1500, "1.5 ms"), (2.5e6, "2.5 s")]
)
def test_durations_are_told_in_three_digits(microseconds: float, shown: str) -> None:
    assert duration(microseconds) == shown
