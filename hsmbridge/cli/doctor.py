"""`doctor`: what an operator should know; of the daemon, and of this machine when no daemon answers."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from hsmbridge.cli.configuration import config_option
from hsmbridge.cli.options import Client, client_options
from hsmbridge.cli.output import print_json, print_table
from hsmbridge.client import Finding
from hsmbridge.client.socket_path import default_socket
from hsmbridge.config import Config, find_config, load_config
from hsmbridge.core.errors import HsmBridgeError, Status

ERROR = "error"
_MARK = {"ok": "ok", "notice": "NOTICE", "warning": "WARNING", ERROR: "ERROR"}


@click.command()
@config_option
@client_options
def doctor(client: Client, config_file: str | None) -> None:
    """Look for what is wrong. Ends with exit code 1 where something is."""
    findings: list[Finding] = []
    config = _read_config(config_file, findings)
    socket = Path(client.socket) if client.socket is not None else default_socket()
    try:
        with client.stack() as stack:
            status = stack.status()
            findings.append(
                Finding("ok", "daemon", f"Answers at {socket}: version {status.version}, {status.workers} worker(s).")
            )
            findings += stack.doctor()
    except HsmBridgeError as problem:
        findings.append(Finding(ERROR, "daemon", problem.message))
        if problem.status is Status.DAEMON_UNREACHABLE:
            findings += _why_unreachable(socket, config)
    failed = any(finding.severity == ERROR for finding in findings)
    if client.as_json:
        print_json(
            {
                "healthy": not failed,
                "findings": [
                    {"severity": finding.severity, "subject": finding.subject, "message": finding.message}
                    for finding in findings
                ],
            }
        )
    else:
        print_table(
            ("", "SUBJECT", "FINDING"),
            [(_MARK.get(finding.severity, finding.severity), finding.subject, finding.message) for finding in findings],
        )
    sys.exit(1 if failed else 0)


def _read_config(config_file: str | None, findings: list[Finding]) -> Config | None:
    source = find_config(config_file)
    try:
        config = load_config(config_file)
    except HsmBridgeError as problem:
        findings.append(Finding(ERROR, "configuration", problem.message))
        return None
    shown = f"{source} is valid." if source is not None else "There is no file; the defaults serve software keys."
    findings.append(Finding("ok", "configuration", shown))
    return config


def _why_unreachable(socket: Path, config: Config | None) -> Iterator[Finding]:
    yield _of_socket(socket)
    if config is None:
        return
    if config.socket != socket:
        yield Finding(
            "notice", "socket", f"The configuration's daemon listens at {config.socket}, and {socket} was asked."
        )
    yield from _of_lock(config.lock_file)
    for name, folder in (("runtime_dir", config.runtime_dir), ("state_dir", config.state_dir)):
        yield from _of_folder(name, folder)


def _of_socket(socket: Path) -> Finding:
    try:
        found = socket.stat()
    except FileNotFoundError:
        return Finding("notice", "socket", f"{socket} is not there.")
    except OSError as problem:
        return Finding(ERROR, "socket", f"{socket} cannot be looked at: {problem.strerror}.")
    if not stat.S_ISSOCK(found.st_mode):
        return Finding(ERROR, "socket", f"{socket} is no socket; move it away.")
    if not os.access(socket, os.W_OK):
        return Finding(
            ERROR,
            "socket",
            f"You may not connect to {socket} (mode {stat.S_IMODE(found.st_mode):04o}); see socket_mode.",
        )
    return Finding("notice", "socket", f"{socket} was left by a daemon that ended; `hsmbridge serve` replaces it.")


def _of_lock(lock: Path) -> Iterator[Finding]:
    try:
        inode = lock.stat().st_ino
        held = any(_is_lock_of(line, inode) for line in Path("/proc/locks").read_text().splitlines())
        holder = lock.read_text(errors="replace").strip()
    except FileNotFoundError:
        return
    except OSError as problem:
        yield Finding("notice", "supervisor", f"{lock} cannot be looked at: {problem.strerror}.")
        return
    if held:
        yield Finding(
            "warning", "supervisor", f"One runs (process {holder}) and its workers do not answer; see its log."
        )
    else:
        yield Finding("notice", "supervisor", "None runs; start one with `hsmbridge serve`.")


def _is_lock_of(line: str, inode: int) -> bool:
    # "1: FLOCK  ADVISORY  WRITE 4242 fe:01:1234567 0 EOF" (proc(5)); asking so disturbs no supervisor that starts now.
    fields = line.split()
    return len(fields) > 5 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == f"{inode}"


def _of_folder(name: str, folder: Path) -> Iterator[Finding]:
    try:
        found = folder.stat()
    except FileNotFoundError:
        yield Finding("notice", name, f"{folder} is not there; `hsmbridge serve` makes it.")
        return
    except OSError as problem:
        yield Finding(ERROR, name, f"{folder} cannot be looked at: {problem.strerror}.")
        return
    if not stat.S_ISDIR(found.st_mode):
        yield Finding(ERROR, name, f"{folder} is no folder; move it away.")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Finding(ERROR, name, f"You may not write to {folder}; run as the user of the daemon.")
    elif found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        yield Finding(ERROR, name, f"Others may write to {folder}; take that away (chmod go-w).")
