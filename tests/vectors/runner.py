"""Runs a set at a provider, through the public client and a real daemon, on a few threads that share a connection.

Cases with one key share its import. Those that need a slot go one after another through one slot, each key a version
of it. What a provider does not have by tests/conformance/pinned_rows.toml is counted as left out, not asked.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from hsmbridge.client import CryptoResourceGuard, CryptoStack, ImportKeyParams, NoncePolicy
from hsmbridge.core.algorithms import KeyOperation, algorithm
from hsmbridge.core.errors import HsmBridgeError, WireError
from tests.conformance.pinned import Pinned
from tests.vectors.cases import AgreeCase, Case, Key, LeftOut, Outcome, P, judge
from tests.vectors.quirks import quirk_of, refused_form
from tests.vectors.sets import VectorSet

_THREADS = 4
_TIMEOUT = 30.0
_MOST_THROUGH_DAEMON = 80
"""Cases of a set whose every secret takes a version in a slot, which is written to disk."""


@dataclass(slots=True)
class Tally:
    """What became of a set at a provider.

    Attributes:
        ran: cases that were asked.
        quirks: those of them that stand in quirks.toml.
        left_out: why others were not, and how many.
        problems: what is wrong, one line a case.
    """

    ran: int = 0
    quirks: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Asked:
    """A case with the form of its key that the provider takes.

    `through_daemon` says that an agreed secret cannot stay where the key is, and goes to a slot in software.
    """

    case: Case
    key: Key | None
    through_daemon: bool = False


def serves(pinned: Pinned, vectors: VectorSet) -> bool:
    """Whether a provider has anything that a set is about."""
    if quirk_of(pinned.backend, vectors.name) or (vectors.public_only and refused_form(pinned.backend, "spki", "")):
        return False
    for name in vectors.algorithms:
        row = algorithm(name)
        if KeyOperation.DIGEST in vectors.operations:
            if pinned.offers(row, KeyOperation.DIGEST):
                return True
        elif set(vectors.key_types or row.key_types) & set(pinned.imports) and any(
            operation is KeyOperation.IMPORT or pinned.offers(row, operation) for operation in vectors.operations
        ):
            return True
    return False


def run(stack: CryptoStack, pinned: Pinned, vectors: VectorSet, data: bytes) -> Tally:
    """Ask a provider all that it can be asked of a set."""
    tally = Tally()
    asked: list[Asked] = []
    for case in vectors.load(data):
        fit = case if isinstance(case, LeftOut) else _fit(case, pinned)
        if isinstance(fit, LeftOut):
            tally.left_out[fit.reason] += 1
        else:
            asked.append(fit)
    most = vectors.most or (_MOST_THROUGH_DAEMON if any(one.through_daemon for one in asked) else 0)
    if most and len(asked) > most:
        chosen = [asked[index * len(asked) // most] for index in range(most)]
        tally.left_out[f"over the limit of {most} cases"] += len(asked) - len(chosen)
        asked = chosen
    for one, answer in _answers(stack, pinned.backend, asked):
        tally.ran += 1
        problem = judge(one.case, answer)
        quirk = quirk_of(pinned.backend, vectors.name, one.case.test)
        if quirk is not None:
            tally.quirks += 1
            if not problem:
                tally.problems.append(f"{one.case.test}: right after all; take its line out of quirks.toml")
        elif problem:
            tally.problems.append(f"{one.case.test}: {problem}")
    return tally


def _fit(case: Case, pinned: Pinned) -> Asked | LeftOut:
    row = algorithm(case.algorithm)
    if case.operation is not KeyOperation.IMPORT and not pinned.offers(row, case.operation):
        return LeftOut(f"{row.name} is not offered")
    through_daemon = False
    if case.operation is KeyOperation.AGREE and case.makes not in pinned.agrees_keys:
        through_daemon = pinned.agrees_secrets
        if not through_daemon:
            return LeftOut(f"no key of type {case.makes} comes of {row.name}")
    if case.operation is KeyOperation.DERIVE and case.makes not in pinned.derives:
        return LeftOut(f"no key of type {case.makes} comes of {row.name}")
    if case.wraps and case.wraps not in pinned.imports:
        return LeftOut(f"keys of type {case.wraps} are not taken")
    if not case.keys:
        return Asked(case, None)
    refused = pinned.refuses.get(row.name, ())
    reason = f"no import of {case.keys[0].key_type}"
    for key in case.keys:
        form = refused_form(pinned.backend, key.form, key.key_type)
        if form is not None:
            reason = f"{key.form}: {form.why}"
        elif key.key_type in pinned.imports and key.key_type in row.key_types and key.key_type not in refused:
            return Asked(case, key, through_daemon)
    return LeftOut(reason)


def _answers(
    stack: CryptoStack, provider: str, asked: Sequence[Asked]
) -> Iterable[tuple[Asked, Outcome | HsmBridgeError]]:
    if any(one.case.in_slot or one.through_daemon for one in asked):
        return _in_slots(stack, provider, asked)
    groups: dict[Key | int | None, list[Asked]] = {}
    for number, one in enumerate(asked):
        groups.setdefault(number if one.key is None else one.key, []).append(one)
    with ThreadPoolExecutor(_THREADS) as threads:
        done = threads.map(lambda group: _with_one_key(stack, provider, group), groups.values())
        return [answer for answers in done for answer in answers]


def _with_one_key(
    stack: CryptoStack, provider: str, group: Sequence[Asked]
) -> list[tuple[Asked, Outcome | HsmBridgeError]]:
    key = group[0].key
    if key is None:
        return [(one, _ask(stack, one.case, "", provider)) for one in group]
    try:
        guard = stack.import_key(_params(key), key.material, provider=provider, timeout=_TIMEOUT)
    except WireError:
        raise
    except HsmBridgeError as refusal:
        return [(one, refusal) for one in group]
    with guard:
        return [(one, _ask(stack, one.case, guard, provider)) for one in group]


def _in_slots(
    stack: CryptoStack, provider: str, asked: Sequence[Asked]
) -> list[tuple[Asked, Outcome | HsmBridgeError]]:
    slots: set[str] = set()
    try:
        return [(one, _in_slot(stack, provider, slots, one)) for one in asked]
    finally:
        for name in slots:
            stack.destroy(name)


def _in_slot(stack: CryptoStack, provider: str, slots: set[str], one: Asked) -> Outcome | HsmBridgeError:
    case, key = one.case, one.key
    assert key is not None
    name = f"vectors-{provider}-{case.algorithm}-{case.operation}"
    if name not in slots:
        stack.create_slot(
            name,
            key.key_type,
            key.permissions | P.GENERATE,
            providers=[provider],
            algorithms=[case.algorithm],
            nonce_policy=NoncePolicy.CALLER,
            derive_to_software=one.through_daemon,
            imported_wrapping_key=True,
            empty=True,
        )
        slots.add(name)
    target = f"{name}-secret"
    if one.through_daemon and target not in slots:
        stack.create_slot(target, case.makes, P.SIGN | P.GENERATE, providers=["software"], empty=True)
        slots.add(target)
    try:
        # A version a case: files use one key and nonce again, which a slot refuses.
        stack.import_key(_params(key), key.material, slot=name, timeout=_TIMEOUT)
        if one.through_daemon:
            assert isinstance(case, AgreeCase)
            return case.ask_into(stack, name, target)
        return case.ask(stack, name, provider)
    except WireError:
        raise
    except HsmBridgeError as refusal:
        return refusal


def _ask(stack: CryptoStack, case: Case, key: CryptoResourceGuard | str, provider: str) -> Outcome | HsmBridgeError:
    try:
        return case.ask(stack, key, provider)
    except WireError:
        # The daemon is gone: that is no answer to any case.
        raise
    except HsmBridgeError as refusal:
        return refusal


def _params(key: Key) -> ImportKeyParams:
    return ImportKeyParams(key_type=key.key_type, permissions=int(key.permissions), format=key.format)


def summary(tallies: Mapping[str, Tally]) -> str:
    """One line for a set: how many cases each provider was asked, and why others were left out."""
    asked = ", ".join(
        f"{provider} {tally.ran}" + (f" ({tally.quirks} quirks)" if tally.quirks else "")
        for provider, tally in tallies.items()
    )
    reasons = Counter[str]()
    for tally in tallies.values():
        reasons |= tally.left_out
    left = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
    return asked + (f" | left out: {left}" if left else "")
