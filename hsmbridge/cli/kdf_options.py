"""The options that describe a key derivation function, made into its parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from types import MappingProxyType
from typing import Concatenate, Final, ParamSpec, TypeVar

import click

from hsmbridge.cli.files import decode_hex
from hsmbridge.client import (
    X963,
    Argon2id,
    Hkdf,
    KbkdfCounter,
    KdfParameters,
    Pbkdf2,
    Scrypt,
    Tls12Prf,
    Tls13ExpandLabel,
)
from hsmbridge.core.errors import RequestError, Status

P = ParamSpec("P")
R = TypeVar("R")

_PREFIX: Final[Mapping[str, str]] = MappingProxyType(
    {
        "hkdf": "HKDF-",
        "pbkdf2": "PBKDF2-HMAC-",
        "kbkdf": "KBKDF-HMAC-",
        "x963": "X963KDF-",
        "tls12": "TLS12-PRF-",
        "tls13": "TLS13-EXPAND-LABEL-",
    }
)
NAMES: Final = (*_PREFIX, "scrypt", "argon2id")


@dataclass(frozen=True, slots=True, kw_only=True)
class KdfOptions:
    """What was said of the function; `parameters` makes the struct of it."""

    name: str | None
    hash_: str
    salt: bytes
    info: bytes
    label: bytes
    context: bytes
    iterations: int | None

    def parameters(self) -> KdfParameters | None:
        """The parameters, or None where no function was named. Raises RequestError for what does not fit."""
        if self.name is None:
            return None
        algorithm = _PREFIX.get(self.name, "") + self.hash_.upper().replace("-", "")
        match self.name:
            case "hkdf":
                return Hkdf(algorithm=algorithm, salt=self.salt, info=self.info)
            case "pbkdf2":
                return Pbkdf2(algorithm=algorithm, salt=self.salt, iterations=self._iterations())
            case "kbkdf":
                return KbkdfCounter(algorithm=algorithm, label=self.label, context=self.context)
            case "x963":
                return X963(algorithm=algorithm, shared_info=self.info)
            case "tls12":
                return Tls12Prf(algorithm=algorithm, label=self.label, seed=self.context)
            case "tls13":
                return Tls13ExpandLabel(algorithm=algorithm, label=self.label, context=self.context)
            case "scrypt":
                return Scrypt(salt=self.salt)
            case _:
                return (
                    Argon2id(salt=self.salt)
                    if self.iterations is None
                    else Argon2id(salt=self.salt, iterations=self.iterations)
                )

    def _iterations(self) -> int:
        if self.iterations is None:
            raise RequestError(Status.INVALID_ARGUMENT, "PBKDF2 needs --iterations; 600000 is usual with SHA-256.")
        return self.iterations


def kdf_options(*, required: bool) -> Callable[[Callable[Concatenate[KdfOptions, P], R]], Callable[P, R]]:
    """Give a command the options of a KDF, and hand it the KdfOptions that they make."""

    def decorate(command: Callable[Concatenate[KdfOptions, P], R]) -> Callable[P, R]:
        @click.option("--kdf", type=click.Choice(NAMES), required=required, help="Key derivation function.")
        @click.option("--hash", "hash_", default="sha256", show_default=True, help="Its hash: sha256, sha384, sha512.")
        @click.option("--salt-hex", default="", metavar="HEX", help="Salt.")
        @click.option("--info", default="", metavar="TEXT", help="Info of HKDF, shared info of X9.63, as text.")
        @click.option("--info-hex", default="", metavar="HEX", help="The same as bytes.")
        @click.option("--label", default="", metavar="TEXT", help="Label of KBKDF and TLS.")
        @click.option("--context-hex", default="", metavar="HEX", help="Context of KBKDF and TLS 1.3, seed of TLS 1.2.")
        @click.option("--iterations", type=click.IntRange(min=1), metavar="N", help="Of PBKDF2 and Argon2id.")
        @wraps(command)
        def with_kdf(*args: P.args, **kwargs: P.kwargs) -> R:
            return command(_taken(kwargs), *args, **kwargs)

        return with_kdf

    return decorate


def _taken(kwargs: dict[str, object]) -> KdfOptions:
    def text(name: str) -> str:
        return str(kwargs.pop(name))

    name, iterations = kwargs.pop("kdf"), kwargs.pop("iterations")
    info, info_hex = text("info"), text("info_hex")
    if info and info_hex:
        raise RequestError(Status.INVALID_ARGUMENT, "Give --info or --info-hex, not both.")
    return KdfOptions(
        name=None if name is None else str(name),
        hash_=text("hash_"),
        salt=decode_hex("--salt-hex", text("salt_hex")),
        info=info.encode() or decode_hex("--info-hex", info_hex),
        label=text("label").encode(),
        context=decode_hex("--context-hex", text("context_hex")),
        iterations=iterations if isinstance(iterations, int) else None,
    )
