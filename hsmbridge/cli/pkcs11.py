"""`pkcs11`: lead PKCS#11 applications here, through the p11-kit that they have already.

Three ways: a variable for one shell, a module file that everything built on p11-kit reads, and the place where
p11-kit's client module looks when nobody tells it anything.
"""

import os
import shlex
from pathlib import Path
from typing import Final
from urllib.parse import quote

import click

from hsmbridge.cli.configuration import config_option
from hsmbridge.cli.options import json_option
from hsmbridge.cli.output import print_json, print_line
from hsmbridge.cli.pins import pin
from hsmbridge.config import load_config
from hsmbridge.core.errors import RequestError, Status

ADDRESS_VARIABLE: Final = "P11_KIT_SERVER_ADDRESS"
SYSTEM_MODULES: Final = Path("/etc/pkcs11/modules")
MODULE_NAME: Final = "hsmbridge.module"
_MARK: Final = "# Written by `hsmbridge pkcs11 install`; `hsmbridge pkcs11 uninstall` removes it."
_CLIENT_MODULE = "pkcs11/p11-kit-client.so"
_LIBRARIES: Final = (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib/aarch64-linux-gnu"), Path("/usr/lib64"))

system_option = click.option(
    "--system/--user",
    "system",
    default=None,
    help="For everybody (/etc), or for you alone (~/.config) [default: --system for root].",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def pkcs11() -> None:
    """Lead PKCS#11 applications to the daemon, through p11-kit, and see to their PINs."""


pkcs11.add_command(pin)


@pkcs11.command()
@config_option
@json_option
def env(config_file: str | None, as_json: bool) -> None:
    """Print what a shell needs: eval "$(hsmbridge pkcs11 env)".

    p11-kit's client module then leads every application of that shell here.
    """
    address = _address(config_file)
    module = client_module()
    if as_json:
        print_json({"address": address, "module": None if module is None else str(module)})
        return
    print_line(f"export {ADDRESS_VARIABLE}={shlex.quote(address)}")
    if module is not None:
        print_line(f"export PKCS11_MODULE_PATH={shlex.quote(str(module))}")


@pkcs11.command()
@config_option
@system_option
@click.option(
    "--default-address",
    is_flag=True,
    help="Also lead there who loads p11-kit-client.so with no variable set: a link in your runtime directory.",
)
@click.option("--trust", is_flag=True, help="Have p11-kit believe the anchors that the daemon shows (trust_stores).")
def install(config_file: str | None, system: bool | None, default_address: bool, trust: bool) -> None:
    """Write a module file, so that all applications that use p11-kit find the daemon without any variable."""
    address = _address(config_file)
    path = _module_file(system)
    policy = "trust-policy: yes\n" if trust else ""
    _write(path, f"{_MARK}\nremote: {address}\n{policy}")
    print_line(f"{path}: written")
    if default_address:
        link = _default_address()
        rule = _link_rule()
        socket = load_config(config_file).p11kit_socket
        _write(rule, f"{_MARK}\nd %t/p11-kit 0700 - - -\nL+ %t/p11-kit/pkcs11 - - - - {socket}\n")
        _link(link, socket)
        print_line(f"{link}: leads to {socket}, and again after each login ({rule})")


@pkcs11.command()
@system_option
def uninstall(system: bool | None) -> None:
    """Remove what `install` wrote. What others wrote stays."""
    removed = [path for path in (_module_file(system), _link_rule()) if _remove(path)]
    link = _default_address()
    if link.is_symlink() and _link_rule() in removed:
        link.unlink()
        removed.append(link)
    for path in removed:
        print_line(f"{path}: removed")
    if not removed:
        print_line("nothing to remove")


def client_module() -> Path | None:
    """p11-kit's client module, where it is installed."""
    return next((path for path in (folder / _CLIENT_MODULE for folder in _LIBRARIES) if path.exists()), None)


def _address(config_file: str | None) -> str:
    found = load_config(config_file)
    if found.frontends.p11kit is None:
        raise RequestError(
            Status.INVALID_CONFIGURATION,
            "The configuration has no PKCS#11 front end; add a section [frontends.p11kit] and restart the daemon.",
        )
    return f"unix:path={quote(str(found.p11kit_socket.absolute()))}"


def _module_file(system: bool | None) -> Path:
    if os.geteuid() == 0 if system is None else system:
        return SYSTEM_MODULES / MODULE_NAME
    return _config_home() / "pkcs11" / "modules" / MODULE_NAME


def _link_rule() -> Path:
    return _config_home() / "user-tmpfiles.d" / "hsmbridge.conf"


def _config_home() -> Path:
    named = os.environ.get("XDG_CONFIG_HOME", "")
    return Path(named) if named else Path.home() / ".config"


def _default_address() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "") or f"/run/user/{os.geteuid()}"
    return Path(runtime) / "p11-kit" / "pkcs11"


def _write(path: Path, text: str) -> None:
    try:
        if path.exists() and not _is_ours(path):
            raise RequestError(
                Status.INVALID_CONFIGURATION, f"{path} is there and was not written by hsmbridge; move it away."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as problem:
        raise _unusable(path, "written", problem) from None


def _link(link: Path, target: Path) -> None:
    try:
        link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if link.is_symlink():
            link.unlink()
        link.symlink_to(target)
    except OSError as problem:
        raise _unusable(link, "made", problem) from None


def _remove(path: Path) -> bool:
    try:
        if not path.exists() or not _is_ours(path):
            return False
        path.unlink()
    except OSError as problem:
        raise _unusable(path, "removed", problem) from None
    return True


def _is_ours(path: Path) -> bool:
    return path.read_text(errors="replace").startswith(_MARK)


def _unusable(path: Path, done: str, problem: OSError) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, f"{path} cannot be {done}: {problem.strerror or problem}.")
