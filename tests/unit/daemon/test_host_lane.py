"""The lane to a provider host, against a process that answers, dies, hangs and talks nonsense: each call ends once."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.daemon import host_lane
from hsmbridge.daemon.host_lane import HostLane
from hsmbridge.engine.lanes import Ticket

HOST = Path(__file__).with_name("scripted_host.py")
ROOT = Path(__file__).parents[3]
PATIENCE = 20.0
FAIR_TIME = 0.3

LANES: list[HostLane] = []
"""Those of the test that runs: a loop ends in order only when its connections have."""


class Hosts:
    """Scripted hosts, one after another at the same socket."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
        self.socket = str(self.directory / "s")
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, greeting: str = "good") -> subprocess.Popen[str]:
        Path(self.socket).unlink(missing_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = (sys.executable, "-P", str(HOST), self.socket, greeting)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        return process

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        shutil.rmtree(self.directory)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    yield made
    made.close()


def run(steps: Coroutine[Any, Any, None]) -> None:
    async def in_time() -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await steps
        finally:
            for lane in LANES:
                lane.close(ProviderError(Status.PROVIDER_UNAVAILABLE))
            LANES.clear()
            await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(in_time())


def new_lane(connections: int = 1, patience: float = FAIR_TIME) -> HostLane:
    loop = asyncio.get_running_loop()
    lane = HostLane(loop, "scripted", connections=connections, max_body=1 << 20, count=lambda: None, patience=patience)
    LANES.append(lane)
    return lane


async def opened(hosts: Hosts, connections: int = 1, patience: float = FAIR_TIME) -> HostLane:
    lane = new_lane(connections, patience)
    await lane.open(hosts.socket)
    return lane


class Asked:
    """One call; `answer` is its only one."""

    def __init__(self, lane: HostLane, message: str, call: calls.ProviderCall | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self.answers: list[tuple[calls.ProviderReply, HsmBridgeError | None]] = []
        self._answered = asyncio.Event()
        self.ticket = Ticket(call or calls.SignCall(1, "ECDSA-P256-SHA256", message.encode()), self._resume)
        self._lane = lane

    def submit(self) -> "Asked":
        self._lane.submit(self.ticket)
        return self

    def _resume(self, reply: calls.ProviderReply, failure: HsmBridgeError | None) -> None:
        self.answers.append((reply, failure))
        self._answered.set()

    async def reply(self) -> calls.ProviderReply:
        await self._answered.wait()
        ((reply, failure),) = self.answers
        if failure is not None:
            raise failure
        return reply

    async def refusal(self) -> HsmBridgeError:
        with pytest.raises(HsmBridgeError) as refused:
            await self.reply()
        return refused.value


def ask(lane: HostLane, message: str) -> Asked:
    return Asked(lane, message).submit()


def test_calls_are_answered_in_any_number_and_from_any_thread(hosts: Hosts) -> None:
    hosts.start()

    async def steps() -> None:
        lane = await opened(hosts, connections=3)
        asked = [ask(lane, f"number {number}") for number in range(50)]
        assert [await one.reply() for one in asked] == [b"number %d" % number for number in range(50)]
        elsewhere = [Asked(lane, "echo") for _ in range(50)]
        threads = [threading.Thread(target=one.submit) for one in elsewhere]
        for thread in threads:
            thread.start()
        assert [await one.reply() for one in elsewhere] == [b"echo"] * 50
        for thread in threads:
            thread.join(PATIENCE)

    run(steps())


def test_what_nobody_asked_for_is_dropped(hosts: Hosts) -> None:
    hosts.start()

    async def steps() -> None:
        lane = await opened(hosts)
        one, other = ask(lane, "twice"), ask(lane, "echo")
        assert (await one.reply(), await other.reply()) == (b"twice", b"echo")

    run(steps())


def test_an_error_of_the_host_is_the_error_of_its_call_alone(hosts: Hosts) -> None:
    hosts.start()

    async def steps() -> None:
        lane = await opened(hosts)
        refused, good = ask(lane, "refuse"), ask(lane, "echo")
        problem = await refused.refusal()
        assert (problem.status, problem.message) == (Status.TOKEN_NOT_PRESENT, "No token.")
        assert await good.reply() == b"echo"

    run(steps())


def test_a_reply_of_a_wrong_type_is_a_failure_of_the_call(hosts: Hosts) -> None:
    hosts.start()

    async def steps() -> None:
        lane = await opened(hosts)
        assert isinstance(await ask(lane, "wrong").refusal(), HsmBridgeError)
        assert await ask(lane, "echo").reply() == b"echo"

    run(steps())


@pytest.mark.parametrize("word", ["die", "noise", "cut"])
def test_a_host_that_ends_or_talks_nonsense_fails_what_is_under_way_and_what_waits(hosts: Hosts, word: str) -> None:
    process = hosts.start()

    async def steps() -> None:
        lane = await opened(hosts)
        # One in hand, one behind it, two that wait in the lane.
        asked = [ask(lane, "pause 50"), ask(lane, word), ask(lane, "echo"), ask(lane, "echo")]
        assert await asked[0].reply() == b"pause 50"
        problems = [await one.refusal() for one in asked[1:]]
        assert {problem.status for problem in problems} == {Status.PROVIDER_UNAVAILABLE}
        await lane.closed()
        with pytest.raises(ProviderError) as refused:
            ask(lane, "echo")
        assert refused.value.status is Status.PROVIDER_UNAVAILABLE
        if word != "cut":
            process.wait(PATIENCE)
        hosts.start()
        await lane.open(hosts.socket)
        assert await ask(lane, "echo").reply() == b"echo"

    run(steps())


def test_a_host_that_hangs_in_a_call_that_was_given_up_is_killed(hosts: Hosts) -> None:
    process = hosts.start()

    async def steps() -> None:
        lane = await opened(hosts, connections=2)
        hung = ask(lane, "hang")
        assert await ask(lane, "echo").reply() == b"echo"
        lane.give_up(hung.ticket)
        # It had its fair time by now or soon; until then the rest is served.
        assert await ask(lane, "echo").reply() == b"echo"
        await lane.closed()
        assert process.wait(PATIENCE) < 0

    run(steps())


async def sent(asked: Asked) -> Asked:
    """A call, once it has gone to the host."""
    connections = [connection for lane in LANES for connection in lane._connections]
    while not any(call.carries(asked.ticket) for one in connections for call in one.under_way.values()):  # noqa: ASYNC110 - the lane tells nobody when it sends
        await asyncio.sleep(0)
    return asked


def test_a_call_that_was_given_up_while_another_was_in_hand_does_not_keep_a_hung_host_alive(hosts: Hosts) -> None:
    process = hosts.start()

    async def steps() -> None:
        lane = await opened(hosts)
        first = ask(lane, "pause 100")
        hung = await sent(ask(lane, "hang"))
        lane.give_up(hung.ticket)
        assert await first.reply() == b"pause 100"
        await lane.closed()
        assert process.wait(PATIENCE) < 0

    run(steps())


def test_a_slow_call_that_was_given_up_has_its_fair_time_from_when_it_is_in_hand(hosts: Hosts) -> None:
    process = hosts.start()

    async def steps() -> None:
        lane = await opened(hosts, patience=1.0)
        first = ask(lane, "pause 800")
        second = await sent(ask(lane, "pause 500"))
        assert await first.reply() == b"pause 800"
        lane.give_up(second.ticket)
        # 800 + 500 milliseconds after it was sent, and within its second.
        assert await ask(lane, "echo").reply() == b"echo"
        assert process.poll() is None

    run(steps())


def test_signatures_that_wait_go_together_and_each_has_its_own_answer(hosts: Hosts) -> None:
    hosts.start()

    async def steps() -> None:
        lane = await opened(hosts, connections=2)
        words = [f"number {number}" for number in range(40)]
        # One that fails makes those beside it fail with it; then each is asked alone.
        words[20] = "refuse"
        asked = [ask(lane, word) for word in words]
        for word, one in zip(words, asked, strict=True):
            if word == "refuse":
                assert (await one.refusal()).status is Status.TOKEN_NOT_PRESENT
            else:
                assert await one.reply() == word.encode()

    run(steps())


def test_one_of_several_that_went_together_has_its_fair_time_when_it_is_given_up(hosts: Hosts) -> None:
    process = hosts.start()

    async def steps() -> None:
        lane = await opened(hosts, patience=5.0)
        first = ask(lane, "echo")
        together = [ask(lane, word) for word in ("pause 300", "number 2", "number 3")]
        await sent(together[1])
        lane.give_up(together[1].ticket)
        assert await first.reply() == b"echo"
        assert (await together[0].reply(), await together[2].reply()) == (b"pause 300", b"number 3")
        assert (process.poll(), together[1].answers) == (None, [])

    run(steps())


def test_one_of_several_that_went_together_and_hang_takes_the_host_down_when_it_is_given_up(hosts: Hosts) -> None:
    process = hosts.start()

    async def steps() -> None:
        lane = await opened(hosts)
        first = ask(lane, "pause 50")
        together = [ask(lane, word) for word in ("hang", "number 2", "number 3")]
        await sent(together[2])
        lane.give_up(together[2].ticket)
        assert await first.reply() == b"pause 50"
        assert (await together[0].refusal()).status is Status.PROVIDER_UNAVAILABLE
        assert process.wait(PATIENCE) < 0

    run(steps())


def test_a_call_given_up_before_it_was_sent_is_never_sent_and_costs_no_host(hosts: Hosts) -> None:
    process = hosts.start()

    async def steps() -> None:
        lane = await opened(hosts)
        asked = [ask(lane, "pause 100"), ask(lane, "echo")]
        waiting = ask(lane, "die")
        lane.give_up(waiting.ticket)
        assert [await one.reply() for one in asked] == [b"pause 100", b"echo"]
        assert await ask(lane, "echo").reply() == b"echo"
        assert (process.poll(), waiting.answers) == (None, [])

    run(steps())


def test_nothing_waits_behind_a_call_that_makes_a_key(hosts: Hosts) -> None:
    hosts.start()

    async def steps() -> None:
        lane = await opened(hosts, connections=2)
        target = calls.KeyTarget(b"0123456789abcdef", "EC-P256", 0)
        making = Asked(lane, "", calls.GenerateCall(target)).submit()
        others = [ask(lane, f"pause {number}") for number in range(4)]
        for one in others:
            await one.reply()
        assert isinstance(await making.refusal(), HsmBridgeError)  # "echo" is no key

    run(steps())


def test_a_closed_lane_answers_everything_with_the_reason(hosts: Hosts) -> None:
    hosts.start()

    async def steps() -> None:
        lane = await opened(hosts)
        asked = [ask(lane, "hang") for _ in range(4)]
        lane.close(ProviderError(Status.PIN_INCORRECT, "the reason"))
        problems = [await one.refusal() for one in asked]
        assert {problem.status for problem in problems} <= {Status.PIN_INCORRECT, Status.PROVIDER_UNAVAILABLE}
        with pytest.raises(ProviderError, match="the reason"):
            ask(lane, "echo")

    run(steps())


@pytest.mark.parametrize("greeting", ["refused", "noise", "closed", "silent"])
def test_a_host_that_does_not_greet_leaves_the_lane_as_it_was(
    hosts: Hosts, greeting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_lane, "ATTACH_TIMEOUT", 0.2)
    hosts.start(greeting)

    async def steps() -> None:
        lane = new_lane()
        with pytest.raises((HsmBridgeError, OSError)):
            await lane.open(hosts.socket)
        with pytest.raises(ProviderError, match="is starting"):
            ask(lane, "echo")
        hosts.start()
        await lane.open(hosts.socket)
        assert await ask(lane, "echo").reply() == b"echo"

    run(steps())
