"""A worker has as many file descriptors as its connections may need, whatever the soft limit was."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from hsmbridge.core import messages as m
from hsmbridge.daemon.descriptors import NATIVE, descriptors_needed
from hsmbridge.daemon.spec import P11KitSpec, SshAgentSpec, StoreSpec, WorkerSpec
from tests.unit.frontends.native_rig import Peer, front

P11KIT = P11KitSpec(tokens="providers", templates="refuse", login="none")
SSH_AGENT = SshAgentSpec(slots=(), forwarding=False)
TAKE = """
import resource, sys
from hsmbridge.daemon.descriptors import take_descriptors
soft, hard, needed = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
take_descriptors(needed)
print("now", *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def spec(p11kit: P11KitSpec | None = None, ssh_agent: SshAgentSpec | None = None) -> WorkerSpec:
    return WorkerSpec(
        version="0",
        store=StoreSpec(url="sqlite://", protector="keyfile"),
        providers=(),
        in_process=(),
        order=(),
        creators={},
        workers=1,
        max_frame=1 << 20,
        max_connections=1000,
        max_connections_per_principal=10,
        max_in_flight=8,
        default_timeout=1.0,
        drain_timeout=1.0,
        p11kit=p11kit,
        ssh_agent=ssh_agent,
    )


def taken(soft: int, hard: int, needed: int) -> str:
    arguments = [sys.executable, "-c", TAKE, str(soft), str(hard), str(needed)]
    return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60).stdout


def test_every_front_end_counts() -> None:
    alone = descriptors_needed(spec())
    with_pkcs11 = descriptors_needed(spec(P11KIT))
    with_both = descriptors_needed(spec(P11KIT, SSH_AGENT))
    assert 3000 < alone < with_pkcs11 < with_both


def test_a_native_connection_has_no_more_than_is_counted_for_it() -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with front() as native, Peer(native), ExitStack() as peers:
        before = opened()
        for _ in range(8):
            peer = peers.enter_context(Peer(native))
            peer.ask(m.ShareMemoryRequest(4096), m.ShareMemoryReply)
            peer.ask(m.PingRequest(), m.PingReply)  # by then the descriptor that was sent is closed
        assert opened() - before <= 8 * (NATIVE + 1), "the peers have one each as well"


def test_a_soft_limit_is_raised_as_far_as_needed() -> None:
    assert taken(256, 4096, 3000) == "now 3000 4096\n"
    assert taken(2048, 4096, 300) == "now 2048 4096\n"


def test_too_low_a_hard_limit_is_told() -> None:
    said = taken(256, 512, 3000)
    assert "LimitNOFILE" in said
    assert said.endswith("now 512 512\n")
