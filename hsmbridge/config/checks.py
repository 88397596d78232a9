"""What must hold between settings, beyond the type of each."""

import os
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path

from hsmbridge.client.socket_path import SOCKET_PATH_MAX
from hsmbridge.config.sections import DEFAULT_ISOLATION, Config, ProviderSection, StoreSection
from hsmbridge.core.errors import HsmBridgeError
from hsmbridge.core.identifiers import check_name, check_principal, check_provider_name
from hsmbridge.core.pkcs11_uri import parse_uri
from hsmbridge.providers.registry import SEALED_SCHEMES, Isolation

_MAX_FRAME = (64 << 10, 1 << 30)
PROVIDERS_MAX = 60
"""The columns of the shared counters less those that count no provider's calls."""

Problem = tuple[str, str, str]
"""Section, key ("" for the section itself) and what is wrong, a clause that follows a colon."""


def check_config(config: Config) -> Iterator[Problem]:
    """Everything that is wrong with a configuration whose values have the right types."""
    if not _MAX_FRAME[0] <= config.daemon.max_frame <= _MAX_FRAME[1]:
        yield "daemon", "max_frame", f"it is 64KiB to 1GiB, not {config.daemon.max_frame}"
    if not _MAX_FRAME[0] <= config.daemon.max_held <= _MAX_FRAME[1]:
        yield "daemon", "max_held", f"it is 64KiB to 1GiB, not {config.daemon.max_held}"
    if config.daemon.max_bytes_per_principal < 2 * config.daemon.max_frame:
        yield (
            "daemon",
            "max_bytes_per_principal",
            "it is at least twice max_frame",
        )
    yield from _check_socket("daemon", "socket", config.socket)
    yield from _check_store(config)
    yield from _check_p11kit(config)
    yield from _check_ssh_agent(config)
    if len(config.providers) > PROVIDERS_MAX:
        yield "providers", "", f"there are {len(config.providers)} of them, and at most {PROVIDERS_MAX} fit"
    for name, provider in config.providers.items():
        yield from _check_provider(config, name, provider)
    for name, namespace in config.namespaces.items():
        section = f"namespaces.{name}"
        yield from _refusal(section, "", check_name, name, "namespace")
        for principal in namespace.creators:
            yield from _refusal(section, "creators", check_principal, principal)


def _check_p11kit(config: Config) -> Iterator[Problem]:
    section = config.frontends.p11kit
    if section is None:
        return
    yield from _check_socket("frontends.p11kit", "socket", config.p11kit_socket)
    if config.p11kit_socket == config.socket:
        yield "frontends.p11kit", "socket", "the native front end listens there; name another one"
    if section.login == "pin" and section.pin_file is None:
        yield "frontends.p11kit", "login", "say where the PIN is: pin_file"
    if section.login != "pin" and section.pin_file is not None:
        yield "frontends.p11kit", "pin_file", 'it is only read where login = "pin"'
    for name in section.trust_stores:
        if not _is_qualified(name):
            yield (
                "frontends.p11kit",
                "trust_stores",
                f'"{name}" is no NAMESPACE/NAME; a daemon has no namespace of its own',
            )


def _is_qualified(name: str) -> bool:
    namespace, _, rest = name.partition("/")
    try:
        return bool(check_name(namespace, "namespace") and check_name(rest))
    except HsmBridgeError:
        return False


def _check_ssh_agent(config: Config) -> Iterator[Problem]:
    section = config.frontends.ssh_agent
    if section is None:
        return
    path = config.ssh_agent_socket
    yield from _check_socket("frontends.ssh_agent", "socket", path)
    if path == config.socket or (config.frontends.p11kit is not None and path == config.p11kit_socket):
        yield "frontends.ssh_agent", "socket", "another front end listens there; name another one"
    if "" in section.slots:
        yield "frontends.ssh_agent", "slots", 'an empty name is no slot\'s; leave slots out, or write "*"'


def _check_store(config: Config) -> Iterator[Problem]:
    store = config.store
    sources = _given(
        passphrase_file=store.passphrase_file,
        passphrase_fd=store.passphrase_fd,
        passphrase_credential=store.passphrase_credential,
    )
    if store.protector != "passphrase":
        for source in sources:
            yield "store", source, 'it is only read where protector = "passphrase"'
    if store.protector != "keyfile" and store.key_file is not None:
        yield "store", "key_file", 'it is only used where protector = "keyfile"'
    yield from _check_tpm_protector(store)
    if store.protector == "passphrase" and len(sources) != 1:
        yield (
            "store",
            "protector",
            f"give {'only ' if sources else ''}one of passphrase_file, passphrase_fd, passphrase_credential",
        )
    yield from _check_credential("store", "passphrase_credential", store.passphrase_credential)


def _check_tpm_protector(store: StoreSection) -> Iterator[Problem]:
    if store.protector == "tpm":
        if store.tcti is None:
            yield "store", "protector", 'give tcti, the way to the TPM, such as "device:/dev/tpmrm0"'
        return
    for name, given in (("tcti", store.tcti is not None), ("pcrs", bool(store.pcrs))):
        if given:
            yield "store", name, 'it is only used where protector = "tpm"'


def _check_provider(config: Config, name: str, provider: ProviderSection) -> Iterator[Problem]:
    section = f"providers.{name}"
    yield from _refusal(section, "", check_provider_name, name)
    if provider.scheme not in DEFAULT_ISOLATION or ":" not in provider.uri:
        near = get_close_matches(provider.scheme, DEFAULT_ISOLATION, n=1)
        hint = f'; did you mean "{near[0]}:"?' if near else ""
        yield section, "uri", f'it begins with "software:", "oqs:", "pkcs11:" or "tpm:"{hint}'
        return
    if provider.scheme == "pkcs11":
        yield from _refusal(section, "uri", parse_uri, provider.uri)
    yield from _check_isolation(config, section, name, provider)
    pins = _given(pin_file=provider.pin_file, pin_fd=provider.pin_fd, pin_credential=provider.pin_credential)
    for source in pins if provider.scheme != "pkcs11" else ():
        yield section, source, f"a {provider.scheme} provider takes no PIN"
    if provider.scheme != "pkcs11" and provider.module_arguments:
        yield section, "module_arguments", "only a PKCS#11 module has that"
    if provider.scheme != "tpm":
        settings = (("srk_name", provider.srk_name), ("parameter_encryption", provider.parameter_encryption))
        for key, given in settings:
            if given:
                yield section, key, "only a TPM has that"
    if len(pins) > 1:
        yield section, pins[1], f"one PIN is enough, and {pins[0]} names it"
    yield from _check_credential(section, "pin_credential", provider.pin_credential)


def _check_isolation(config: Config, section: str, name: str, provider: ProviderSection) -> Iterator[Problem]:
    thread = config.isolation(name) is Isolation.THREAD
    if provider.scheme in SEALED_SCHEMES and not thread:
        yield section, "isolation", 'software keys live under the master key: write "thread"'
    if provider.scheme == "tpm" and thread and config.daemon.workers > 1:
        yield (
            section,
            "isolation",
            f'a TPM has one owner, and there are {config.daemon.workers} workers: "process", or workers = 1',
        )
    if thread:
        if provider.environment:
            yield section, "environment", 'variables are set in a process of the provider\'s own: isolation = "process"'
    else:
        yield from _check_socket(section, "", config.providers_dir / f"{name}.sock")


def _check_socket(section: str, key: str, path: Path) -> Iterator[Problem]:
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_MAX:
        what = f"the path {path} has {length} bytes, and the kernel takes {SOCKET_PATH_MAX} for a socket"
        yield section, key, f"{what}; choose a shorter runtime_dir or socket"


def _check_credential(section: str, key: str, name: str | None) -> Iterator[Problem]:
    if name is not None and (not name or "/" in name or name in {".", ".."} or "\0" in name):
        yield section, key, "it is the name of a credential, not a path"


def _given(**settings: object) -> list[str]:
    return [name for name, value in settings.items() if value is not None]


def _refusal(section: str, key: str, check: Callable[..., object], *arguments: str) -> Iterator[Problem]:
    try:
        check(*arguments)
    except HsmBridgeError as problem:
        yield section, key, problem.message.rstrip(".")
