"""TLS with OpenSSL's engine: VERSION CERTIFICATE KEY-URI. A server, and what a client against it says."""

import socket
import subprocess
import sys


def main(version: str, certificate: str, uri: str) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = subprocess.Popen(
        [
            *("openssl", "s_server", "-engine", "pkcs11", "-keyform", "engine", "-key", uri, "-cert", certificate),
            *("-accept", f"127.0.0.1:{port}", "-naccept", "1", f"-{version}"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        for line in server.stdout:
            if line.startswith("ACCEPT"):
                break
        client = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", f"-{version}", "-CAfile", certificate],
            input="\n",
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        print(client.stdout + client.stderr)
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
