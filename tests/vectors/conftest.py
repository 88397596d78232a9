"""A daemon for the suite, and the report: the sets that ran, cases by provider, what was left out and lacked."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from hsmbridge.client import CryptoStack
from hsmbridge.lab.lab import Lab
from tests.conformance.backends import LIBOQS
from tests.vectors.runner import Tally, summary
from tests.vectors.sets import NOT_RUN, SETS
from tests.vectors.sources import Source, Sources

_PROPERTY = "vectors"


@pytest.fixture(scope="session")
def stack(hsmbridge_lab: Lab) -> Iterator[CryptoStack]:
    """A client of the lab's daemon, which gets the provider oqs as well."""
    with hsmbridge_lab.config.open("a") as config:
        config.write(f'\n[providers.oqs]\nuri = "oqs:{LIBOQS}"\n')
    hsmbridge_lab.restart_daemon()
    with hsmbridge_lab.stack(timeout=60) as stack:
        assert {info.name: info.reason for info in stack.providers() if info.state != "available"} == {}
        yield stack


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str, str, Tally], None]:
    """Hands a tally over to the summary; as plain values, so that pytest-xdist carries it."""

    def give(vectors: str, provider: str, tally: Tally) -> None:
        record_property(_PROPERTY, [vectors, provider, tally.ran, tally.quirks, dict(tally.left_out)])

    return give


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was used and what was lacked."""
    found: dict[str, dict[str, Tally]] = {}
    totals = Counter[str]()
    for kind in ("passed", "failed"):
        for one in terminalreporter.stats.get(kind, ()):
            for name, value in getattr(one, "user_properties", ()):
                if name == _PROPERTY:
                    vectors, provider, ran, quirks, left_out = value
                    found.setdefault(vectors, {})[provider] = Tally(ran, quirks, Counter(left_out))
                    totals[provider] += ran
    if not found:
        return
    sources = Sources.found()
    terminalreporter.section("published vectors")
    terminalreporter.write_line(f"sources: {sources}")
    for vectors, tallies in sorted(found.items()):
        terminalreporter.write_line(f"{vectors}: {summary(tallies)}")
    lacked = [vectors.name for vectors in SETS if sources.path(vectors.source, vectors.path) is None]
    if lacked:
        terminalreporter.write_line(f"lacked {len(lacked)} sets: {', '.join(lacked)}")
    others = _others(sources)
    if others:
        terminalreporter.write_line(f"there, and not run: {', '.join(others)}")
    cases = ", ".join(f"{provider} {ran}" for provider, ran in totals.items())
    terminalreporter.write_line(f"cases asked, by provider: {cases}")


def _others(sources: Sources) -> list[str]:
    """Files of the optional folder that no set is about, with the reason where the table has one."""
    known = {vectors.name for vectors in SETS}
    names = [
        f"{source}/{path.name}"
        for source in (Source.WYCHEPROOF, Source.ACVP)
        for path in sorted((sources.folder / source).glob("*.json") if sources.folder else ())
    ]
    reasons = {name: f"{name} ({NOT_RUN[name]})" if name in NOT_RUN else name for name in names}
    return [reasons[name] for name in names if name not in known]
