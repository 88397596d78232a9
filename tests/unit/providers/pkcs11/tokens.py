"""SoftHSM tokens for these tests, and what an independent reader sees on them."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pkcs11
from pkcs11 import Attribute, Object, Session

from hsmbridge.core.calls import KeyTarget, MadeKey
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import KEY_TYPES, KeyType
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.pkcs11 import Pkcs11Provider, Pkcs11Settings, open_pkcs11

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "correct-horse"
SO_PIN = "battery-staple"


@dataclass(frozen=True)
class Tokens:
    """A SoftHSM with some tokens, each with the same PIN."""

    directory: Path
    serials: list[str] = field(default_factory=list)

    @property
    def configuration(self) -> Path:
        return self.directory / "softhsm2.conf"

    def add(self, label: str) -> str:
        """Make a token; its serial."""
        before = self._serials()
        self._util("--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN)
        (serial,) = self._serials() - before
        self.serials.append(serial)
        return serial

    @contextmanager
    def current(self) -> Iterator[None]:
        """For the module, which reads its configuration when it is initialised."""
        before = os.environ.get("SOFTHSM2_CONF")
        os.environ["SOFTHSM2_CONF"] = str(self.configuration)
        try:
            yield
        finally:
            if before is None:
                del os.environ["SOFTHSM2_CONF"]
            else:
                os.environ["SOFTHSM2_CONF"] = before

    def files(self) -> set[Path]:
        """The objects, as SoftHSM keeps them."""
        return set((self.directory / "tokens").glob("*/*.object"))

    def _serials(self) -> set[str]:
        slots = self._util("--show-slots").splitlines()
        return {line.split(":")[1].strip() for line in slots if "Serial number" in line} - {""}

    def _util(self, *arguments: str) -> str:
        environment = {**os.environ, "SOFTHSM2_CONF": str(self.configuration)}
        done = subprocess.run(
            ["softhsm2-util", *arguments], env=environment, capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout


def make_tokens(*labels: str) -> Tokens:
    directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    (directory / "tokens").mkdir()
    tokens = Tokens(directory)
    tokens.configuration.write_text(
        f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    for label in labels:
        tokens.add(label)
    return tokens


def open_token(
    label: str = "lab", *, serial: str = "", module: Path = MODULE, pin: str | None = PIN, sessions: int = 8
) -> Pkcs11Provider:
    settings = Pkcs11Settings(module=str(module), token=label, serial=serial, sessions=sessions)
    return open_pkcs11(settings, None if pin is None else Pin(pin))


@dataclass(frozen=True)
class Made:
    """What the store would remember of a key."""

    target: KeyTarget
    row: KeyType
    key: MadeKey

    @property
    def id(self) -> bytes:
        return self.target.key_id

    def load(self, provider: Pkcs11Provider) -> int:
        return provider.load(self.id, self.row, self.target.permissions, self.key.reference, self.target.binding)

    def destroy(self, provider: Pkcs11Provider) -> None:
        provider.destroy(self.id, self.row, self.key.reference)


def target_for(name: str, permissions: P | None = None, *, ephemeral: bool = False) -> KeyTarget:
    row = KEY_TYPES[name]
    given = row.permissions & ~P.EXPORT if permissions is None else permissions
    return KeyTarget(new_key_id(), name, int(given), label="uid-0/web", ephemeral=ephemeral)


def generate(provider: Pkcs11Provider, name: str, permissions: P | None = None, *, ephemeral: bool = False) -> Made:
    target = target_for(name, permissions, ephemeral=ephemeral)
    return Made(target, KEY_TYPES[name], provider.generate(target))


@contextmanager
def reader(label: str = "lab", module: Path = MODULE) -> Iterator[Session]:
    """A session of python-pkcs11 with nothing of ours around it; it has the login of this process."""
    session = pkcs11.lib(str(module.resolve())).get_token(token_label=label).open(rw=True)
    try:
        yield session
    finally:
        session.close()


def session_objects(session: Session) -> list[Object]:
    """What lives in sessions, as the token itself tells it."""
    return list(session.get_objects({Attribute.TOKEN: False}))


def attributes(session: Session, key_id: bytes) -> Mapping[str, Mapping[Attribute, object]]:
    """All attributes that matter of the objects with a CKA_ID, by the name of their class."""
    wanted = [
        Attribute.LABEL,
        Attribute.TOKEN,
        Attribute.PRIVATE,
        Attribute.MODIFIABLE,
        Attribute.COPYABLE,
        Attribute.SENSITIVE,
        Attribute.EXTRACTABLE,
        *(Attribute.SIGN, Attribute.VERIFY, Attribute.ENCRYPT, Attribute.DECRYPT),
        *(Attribute.WRAP, Attribute.UNWRAP, Attribute.DERIVE),
    ]
    found = {}
    for item in list(session.get_objects({Attribute.ID: key_id})):
        seen: dict[Attribute, object] = {}
        for attribute in wanted:
            try:
                seen[attribute] = item[attribute]
            except pkcs11.AttributeTypeInvalid:
                continue  # an object of this class has none
        found[type(item).__name__] = seen
    return found
