"""A restart of the daemon under load: what stock clients make of it, and what is there afterwards."""

import os
import subprocess
import sys
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
