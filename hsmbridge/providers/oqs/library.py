"""Finds liboqs and loads it through liboqs-python, whose ways of its own are kept in check here.

Imported where there is no liboqs, the package clones a repository, builds it and ends the process when that fails. So
the library is looked for first, in the places and in the order that the package has, and the import happens only where
one was found that loads and has what the package asks for. The package also writes to standard output and warns of
every difference of versions, which `describe` tells in a note instead.
"""

import ctypes
import ctypes.util
import io
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, Self, cast

from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status

_PREFIX_VARIABLE = "OQS_INSTALL_PATH"
_VERSION_VARIABLE = "PYOQS_VERSION"
_NAME = "liboqs.so"
_SYSTEM_NAMES = ("liboqs", "oqs")
"""As liboqs-python asks the system for it, in this order."""
_REQUIRED = ("OQS_KEM_keypair_derand", "OQS_SIG_sign_with_ctx_str", "OQS_SIG_supports_ctx_str", "OQS_MEM_cleanse")
"""What liboqs-python or we cannot do without; the first two came with 0.13 and 0.12, the third after 0.13."""

_loading = threading.Lock()


class _Mechanism(Protocol):
    """What KEMs and signatures have in common. An object is for one call and one thread."""

    details: Mapping[str, object]
    secret_key: ctypes.Array[ctypes.c_char]
    """Given or made; cleansed by `free`."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def generate_keypair(self) -> bytes: ...


class Kem(_Mechanism, Protocol):
    """oqs.KeyEncapsulation."""

    def encap_secret(self, public_key: bytes) -> tuple[bytes, bytes]: ...

    def decap_secret(self, ciphertext: bytes) -> bytes: ...

    def generate_keypair_seed(self, seed: bytes) -> bytes: ...


class Signer(_Mechanism, Protocol):
    """oqs.Signature."""

    def sign(self, message: bytes) -> bytes: ...

    def sign_with_ctx_str(self, message: bytes, context: bytes) -> bytes: ...

    def verify(self, message: bytes, signature: bytes, public_key: bytes) -> bool: ...

    def verify_with_ctx_str(self, message: bytes, signature: bytes, context: bytes, public_key: bytes) -> bool: ...


class _Random(Protocol):
    def randombytes(self, bytes_to_read: int) -> bytes: ...


class _Package(Protocol):
    """What is used of the package oqs, which has no types."""

    def oqs_version(self) -> str: ...

    def get_enabled_kem_mechanisms(self) -> tuple[str, ...]: ...

    def get_enabled_sig_mechanisms(self) -> tuple[str, ...]: ...

    def native(self) -> ctypes.CDLL: ...

    def KeyEncapsulation(self, name: str) -> Kem: ...  # noqa: N802 - a class there

    def Signature(self, name: str) -> Signer: ...  # noqa: N802 - a class there


@dataclass(frozen=True, slots=True)
class Library:
    """liboqs, loaded.

    Attributes:
        version: of liboqs.
        package_version: of liboqs-python.
        kems: names of the KEMs that it was built with.
        signatures: names of the signature algorithms that it was built with.
    """

    version: str
    package_version: str
    kems: frozenset[str]
    signatures: frozenset[str]
    _package: _Package
    _random: _Random

    def kem(self, name: str) -> Kem:
        """A KEM for one call."""
        return self._package.KeyEncapsulation(name)

    def random(self, length: int) -> bytes:
        """Random bytes from the generator that liboqs makes keys with: the system's, unless it was built otherwise."""
        return self._random.randombytes(length) if length else b""

    def signer(self, name: str) -> Signer:
        """A signature algorithm for one call."""
        return self._package.Signature(name)


def load_library(prefix: str = "") -> Library:
    """The liboqs under `prefix`, or where liboqs-python finds one. One process has one liboqs.

    Args:
        prefix: the folder that liboqs was installed to, with liboqs.so in its lib or lib64.

    Raises:
        ImportError: liboqs-python is not installed.
        RequestError: INVALID_CONFIGURATION for a prefix that is no absolute path.
        ProviderError: PROVIDER_UNAVAILABLE where there is no liboqs that liboqs-python can use, saying what is wrong.
    """
    package_version = version("liboqs-python")
    if prefix and not Path(prefix).is_absolute():
        raise RequestError(
            Status.INVALID_CONFIGURATION, "The folder of liboqs is given as an absolute path: oqs:/opt/liboqs."
        )
    with _loading:
        found = _find(prefix)
        package, random = _import_package(Path(prefix) if prefix else _default_prefix(), configured=bool(prefix))
        loaded = str(package.native()._name)  # noqa: SLF001 - the only trace of which library it took
        if prefix and not _are_one_file(loaded, found):
            raise _unavailable(
                "Another liboqs than the one that the configuration names is loaded: a provider with another folder was"
                " opened first. Let them agree",
                loaded,
            )
        return Library(
            version=package.oqs_version(),
            package_version=package_version,
            kems=frozenset(package.get_enabled_kem_mechanisms()),
            signatures=frozenset(package.get_enabled_sig_mechanisms()),
            _package=package,
            _random=random,
        )


def _find(prefix: str) -> Path:
    """The library that liboqs-python will load. Raises ProviderError."""
    problems = []
    for candidate in _candidates(prefix):
        try:
            library = ctypes.CDLL(str(candidate))
        except OSError as problem:
            problems.append(f"{candidate}: {problem}")
            continue
        missing = [name for name in _REQUIRED if not hasattr(library, name)]
        if missing:
            raise _unavailable(
                "The liboqs that was found is too old for liboqs-python: it lacks"
                f" {', '.join(missing)}. Install a newer one",
                str(candidate),
            )
        return candidate
    where = "where the configuration says" if prefix else f"among the system's libraries nor in ${_PREFIX_VARIABLE}"
    raise _unavailable(
        f"liboqs was not found {where}. Install it, or name its folder in the provider's uri (oqs:/opt/liboqs)",
        "; ".join(problems),
    )


def _candidates(prefix: str) -> Iterator[Path]:
    if not prefix:
        for name in _SYSTEM_NAMES:
            found = ctypes.util.find_library(name)
            if found:
                yield Path(found)
    folder = Path(prefix) if prefix else _default_prefix()
    for lib in ("lib", "lib64"):
        yield folder.absolute() / lib / _NAME


def _default_prefix() -> Path:
    named = os.environ.get(_PREFIX_VARIABLE, "")
    if named:
        return Path(named)
    try:
        return Path.home() / "_oqs"
    except RuntimeError:  # A user without a home directory.
        return Path("/nonexistent")


def _are_one_file(one: str, other: Path) -> bool:
    try:
        return other.samefile(one)
    except OSError:  # A library of the system goes by its bare name.
        return False


def _import_package(prefix: Path, *, configured: bool) -> tuple[_Package, _Random]:
    """Import oqs, without its noise and without what it does where it finds nothing."""
    # No version that it could install, so that it would end there with ValueError.
    settings = {_PREFIX_VARIABLE: str(prefix), _VERSION_VARIABLE: "none"}
    hidden: AbstractContextManager[None] = _system_library_hidden() if configured else nullcontext()
    try:
        with _environment(settings), hidden, redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Modules, with what the protocols list.
            return cast(_Package, import_module("oqs")), cast(_Random, import_module("oqs.rand"))
    except (SystemExit, AttributeError, RuntimeError, ValueError) as problem:
        raise _unavailable("liboqs-python cannot use the liboqs that was found", repr(problem)) from problem


@contextmanager
def _system_library_hidden() -> Iterator[None]:
    """The package takes a library of the system before the one that it is told; what is configured shall win."""
    find = ctypes.util.find_library
    ctypes.util.find_library = lambda name: None if name in _SYSTEM_NAMES else find(name)
    try:
        yield
    finally:
        ctypes.util.find_library = find


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _unavailable(what: str, origin: str) -> HsmBridgeError:
    return ProviderError(Status.PROVIDER_UNAVAILABLE, f"{what}.", origin=origin)
