"""What the supervisor's settings refuse, and what they do not show."""

from pathlib import Path

import pytest
from rich.console import Console

from hsmbridge.core.errors import RequestError
from hsmbridge.providers.registry import Isolation, ProviderSpec
from hsmbridge.supervisor import SupervisedProvider, SupervisorSettings

HERE = Path("/run/hsmbridge")


def provider(name: str, isolation: Isolation = Isolation.PROCESS) -> SupervisedProvider:
    return SupervisedProvider(spec=ProviderSpec(name=name, uri="software:", isolation=isolation))


def test_what_the_workers_are_told_does_not_show() -> None:
    settings = SupervisorSettings(runtime_dir=HERE, state_dir=HERE, worker_spec=b"passphrase")
    console = Console(width=200)
    with console.capture() as shown:
        console.print(settings)
    assert "passphrase" not in f"{settings!r} {settings} {shown.get()}"


def test_two_providers_of_one_name_are_refused() -> None:
    with pytest.raises(RequestError, match="Two providers are called p"):
        SupervisorSettings(runtime_dir=HERE, state_dir=HERE, providers=(provider("p"), provider("p")))


def test_more_providers_than_are_counted_are_refused() -> None:
    many = tuple(provider(f"p{number}") for number in range(61))
    assert len(SupervisorSettings(runtime_dir=HERE, state_dir=HERE, providers=many[:60]).providers) == 60
    with pytest.raises(RequestError, match="at most 60 providers; this has 61"):
        SupervisorSettings(runtime_dir=HERE, state_dir=HERE, providers=many)


@pytest.mark.parametrize("workers", [0, -1, 257])
def test_a_number_of_workers_that_cannot_be_right_is_refused(workers: int) -> None:
    with pytest.raises(RequestError, match="1 to 256"):
        SupervisorSettings(runtime_dir=HERE, state_dir=HERE, workers=workers)


def test_only_isolated_providers_get_a_host() -> None:
    inside, outside = provider("in", Isolation.THREAD), provider("out")
    settings = SupervisorSettings(runtime_dir=HERE, state_dir=HERE, providers=(inside, outside))
    assert (settings.hosted(), settings.threaded()) == ((outside,), (inside,))
    assert settings.host_spec(outside).socket_path == HERE / "providers" / "out.sock"
