"""The lanes of one worker, and how they follow what the supervisor says of the provider hosts."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from hsmbridge.core.calls import DescribeCall, Description
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status, error_from_wire
from hsmbridge.daemon.host_lane import HostLane
from hsmbridge.engine.lanes import Lane, Ticket
from hsmbridge.providers.host.messages import ProviderState, ProviderStates
from hsmbridge.service.catalogue import ProviderCatalogue

_log = structlog.get_logger(__name__)


class ProviderLanes:
    """Every lane by instance name; satisfies the runner's `Lanes`."""

    def __init__(self, fixed: Mapping[str, Lane], hosts: Mapping[str, HostLane], catalogue: ProviderCatalogue) -> None:
        """Args: lanes of in-process providers, lanes of hosts, and the catalogue that tells what is available."""
        self._lanes: dict[str, Lane] = {**fixed, **hosts}
        self._hosts = hosts
        self._catalogue = catalogue
        self._seen: dict[str, ProviderState] = {}
        self._settling: dict[str, asyncio.Task[None]] = {}

    def lane(self, provider: str) -> Lane:
        """The lane of an instance. Raises ProviderError (PROVIDER_NOT_CONFIGURED)."""
        try:
            return self._lanes[provider]
        except KeyError:
            raise ProviderError(
                Status.PROVIDER_NOT_CONFIGURED, f"Provider {provider} is not configured any more."
            ) from None

    def replace(self, provider: str, lane: Lane) -> None:
        """Another lane for an instance, from its next call on."""
        self._lanes[provider] = lane

    def follow(self, states: ProviderStates, changed: Callable[[], None]) -> None:
        """Take what the supervisor says; `changed` is called once a provider has become available."""
        for state in states.providers:
            lane = self._hosts.get(state.name)
            if lane is None or self._seen.get(state.name) == state:
                continue
            self._seen[state.name] = state
            pending = self._settling.pop(state.name, None)
            if pending is not None:
                pending.cancel()
            if state.available:
                self._settling[state.name] = asyncio.ensure_future(self._connect(lane, state, changed))
            else:
                reason = error_from_wire(state.status, state.message, state.incident)
                lane.close(reason)
                self._catalogue.unavailable(state.name, reason)

    async def _connect(self, lane: HostLane, state: ProviderState, changed: Callable[[], None]) -> None:
        try:
            await lane.open(state.socket)
            description = await _describe(lane)
        except (OSError, HsmBridgeError) as problem:
            # The host died again; the supervisor's next word says what became of it.
            reason = ProviderError(
                Status.PROVIDER_UNAVAILABLE,
                f"Provider {state.name} does not answer; try again shortly.",
                origin=repr(problem),
            )
            _log.warning("a provider host does not answer", provider=state.name, problem=repr(problem))
            lane.close(reason)
            self._catalogue.unavailable(state.name, reason)
            return
        self._catalogue.available(state.name, description, state.pid)
        changed()


async def _describe(lane: Lane) -> Description:
    answer: asyncio.Future[Description] = asyncio.get_running_loop().create_future()

    def resume(reply: object, failure: HsmBridgeError | None) -> None:
        if answer.done():
            return
        if failure is not None:
            answer.set_exception(failure)
        elif isinstance(reply, Description):
            answer.set_result(reply)
        else:
            answer.set_exception(ProviderError(Status.PROVIDER_FAILED, origin="no description"))

    lane.submit(Ticket(DescribeCall(), resume))
    return await answer
