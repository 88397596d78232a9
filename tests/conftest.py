"""What every suite shares: the long runs are opt-in and counted, and a skip is a failure.

A skipped test is a claim that nobody checked, so a run with one ends red.  What takes too long for every run is
marked ``all`` and left out *by name*: the summary says how many tests that were.  Fixtures do not belong here.
"""

from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest

_DESELECTED = pytest.StashKey[int]()
_WORKER_KEY = "hsmbridge_deselected"


class _WorkerNode(Protocol):
    """What the controller of pytest-xdist hands over when a worker ends."""

    config: pytest.Config
    workeroutput: dict[str, Any]


def _register_profiles() -> None:
    # No deadline: on two busy cores, how long an example takes says nothing about the code.
    for name, examples in (("default", 100), ("all", 2_000)):
        hypothesis.settings.register_profile(
            name,
            max_examples=examples,
            deadline=None,
            print_blob=True,
            suppress_health_check=[hypothesis.HealthCheck.too_slow],
        )


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--all`` and ``--counts``."""
    parser.addoption("--all", action="store_true", help="also run what is marked 'all', and try more examples")
    parser.addoption("--counts", metavar="FILE", help="write 'PASSED FAILED DESELECTED' to FILE at the end")


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples a property gets."""
    config.stash[_DESELECTED] = 0
    _register_profiles()
    hypothesis.settings.load_profile("all" if config.getoption("--all") else "default")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked ``all``, and remember how much that was."""
    if config.getoption("--all"):
        return
    left_out = [item for item in items if item.get_closest_marker("all")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
        config.stash[_DESELECTED] = len(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: _WorkerNode, error: object) -> None:
    """Take the count over from a worker of pytest-xdist; each worker collects everything, so they agree."""
    known = node.config.stash[_DESELECTED]
    node.config.stash[_DESELECTED] = max(known, getattr(node, "workeroutput", {}).get(_WORKER_KEY, 0))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn a run with skips red, and write the counts."""
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput[_WORKER_KEY] = config.stash[_DESELECTED]
        return
    passed, failed, skipped = (_count(config, kinds) for kinds in (("passed",), ("failed", "error"), ("skipped",)))
    if skipped and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    counts = config.getoption("--counts")
    if counts:
        Path(counts).write_text(f"{passed} {failed + skipped} {config.stash[_DESELECTED]}\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what was left out, and say why a run with skips is red."""
    if config.stash[_DESELECTED]:
        terminalreporter.write_line(f"deselected: --all set: {config.stash[_DESELECTED]} tests")
    skipped = _count(config, ("skipped",))
    if skipped:
        terminalreporter.write_line(f"a skip is a failure here: {skipped} skipped", red=True)


def _count(config: pytest.Config, kinds: tuple[str, ...]) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if not isinstance(reporter, pytest.TerminalReporter):
        return 0
    return sum(len(reporter.stats.get(kind, ())) for kind in kinds)
