"""A restart of the daemon under load: what stock clients make of it, and what is there afterwards."""

import itertools
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from tests.interop.p11kit_client import MODULE, Service, service

__all__ = ["service"]


def test_a_stock_client_loses_its_connection_and_goes_on_after_initialising_again(
    service: Service, tmp_path: Path
) -> None:
    application = subprocess.Popen(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("p11kit_restarted.py"), MODULE],
        env={
            **os.environ,
            "P11_KIT_SERVER_ADDRESS": f"unix:path={service.socket}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert application.stdout is not None
        assert application.stdin is not None
        assert application.stdout.readline() == "signing\n"
        service.lab.restart_daemon()
        assert application.stdout.readline() == "lost DeviceError\n"
        assert application.stdout.readline() == "still DeviceError\n"
        listed = service.tool("--token-label", "software", "-O", cwd=tmp_path)
        assert "restart" in listed, "who comes now connects at once, and finds what was acknowledged"
        application.stdin.write("\n")
        application.stdin.flush()
        assert application.stdout.readline() == "again\n"
    finally:
        application.kill()
        application.communicate()


class Maker(threading.Thread):
    """An application that makes one key after the other until it loses its connection."""

    def __init__(self, service: Service, number: int) -> None:
        super().__init__()
        self.service = service
        self.number = number
        self.begun = threading.Event()
        self.acknowledged: list[bytes] = []

    def run(self) -> None:
        with suppress(OSError), self.service.client() as client:
            session = client.open(client.slot("software"))
            for count in itertools.count():
                label = f"made {self.number} {count}".encode()
                client.key_pair(session, TOKEN=1, LABEL=label, SIGN=1)
                self.acknowledged.append(label)
                self.begun.set()


def test_a_restart_under_load_loses_nothing_that_was_acknowledged(service: Service) -> None:
    makers = [Maker(service, number) for number in range(8)]
    for one in makers:
        one.start()
    for one in makers:
        assert one.begun.wait(30)
    service.lab.restart_daemon()
    for one in makers:
        one.join(30)
        assert not one.is_alive(), "the lost connection was told"
    with service.client() as client:
        session = client.open(client.slot("software"))
        for label in itertools.chain.from_iterable(one.acknowledged for one in makers):
            assert len(client.find(session, LABEL=label)) == 2, label
