"""Reading a configuration file: TOML, or JSON, into a checked Config.

Every problem is found in one run, and each is told with its section, key and line. What the file says besides is
not repeated: a value may be a secret that was put in the wrong place.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from hsmbridge.client.socket_path import SOCKET_VARIABLE
from hsmbridge.config.checks import Problem, check_config
from hsmbridge.config.places import CONFIG_VARIABLE, default_config_file
from hsmbridge.config.sections import (
    Config,
    DaemonSection,
    FrontEnds,
    LogSection,
    NamespaceSection,
    P11KitSection,
    ProviderSection,
    SshAgentSection,
    StoreSection,
)
from hsmbridge.config.values import decode_value, expected
from hsmbridge.core.errors import RequestError, Status

_SIZE_LIMIT: Final = 1 << 20
_Section = TypeVar("_Section", bound=msgspec.Struct)
_SINGLE: Final = {"daemon": DaemonSection, "store": StoreSection, "log": LogSection}
_NAMED: Final = {"providers": ProviderSection, "namespaces": NamespaceSection}


class InvalidConfiguration(RequestError):
    """A configuration that cannot be used. `problems` has a sentence for each fault."""

    def __init__(self, source: str, problems: Iterable[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(Status.INVALID_CONFIGURATION, f"{source}: {'; '.join(self.problems)}")


def load_config(path: str | os.PathLike[str] | None = None) -> Config:
    """The configuration in `path`, else in $HSMBRIDGE_CONFIG, else in the usual place, else of no file at all.

    Raises InvalidConfiguration with everything that is wrong.
    """
    source = find_config(path)
    if source is None:
        return parse_config("", "(no configuration file)", Path.cwd())
    try:
        with source.open("rb") as file:
            content = file.read(_SIZE_LIMIT + 1)
        if len(content) > _SIZE_LIMIT:
            raise InvalidConfiguration(str(source), ["it is larger than 1 MiB, which no configuration is"])
        text = content.decode()
    except OSError as problem:
        raise InvalidConfiguration(str(source), [f"it cannot be read: {problem.strerror or problem}"]) from None
    except UnicodeDecodeError:
        raise InvalidConfiguration(str(source), ["it is not UTF-8 text"]) from None
    return parse_config(text, str(source), source.absolute().parent)


def find_config(path: str | os.PathLike[str] | None = None) -> Path | None:
    """The file that `load_config` reads; None where nobody names one and none is in the usual place."""
    if path is not None:
        return Path(path)
    named = os.environ.get(CONFIG_VARIABLE, "")
    if named:
        return Path(named)
    usual = default_config_file()
    return usual if usual.exists() else None


def parse_config(text: str, source: str, folder: Path) -> Config:
    """The configuration that `text` is. Relative paths start at `folder`. Raises InvalidConfiguration."""
    reader = _Reader(text, folder)
    try:
        document = _document(text)
    except ValueError as problem:
        raise InvalidConfiguration(source, [f"it is neither TOML nor JSON: {problem}"]) from None
    config = reader.read(document)
    problems = reader.problems or list(check_config(config))
    if problems:
        raise InvalidConfiguration(source, [reader.sentence(problem) for problem in problems])
    return config


def _document(text: str) -> Mapping[str, object]:
    if text.lstrip().startswith("{"):
        try:
            document = msgspec.json.decode(text)
        except msgspec.DecodeError as problem:
            raise ValueError(str(problem)) from None
        if isinstance(document, dict):
            return document
    return tomllib.loads(text)


class _Reader:
    """Turns tables into sections, and collects what is wrong with them."""

    def __init__(self, text: str, folder: Path) -> None:
        self.problems: list[Problem] = []
        self._lines = text.splitlines()
        self._folder = folder

    def read(self, document: Mapping[str, object]) -> Config:
        known = {**_SINGLE, **_NAMED, "frontends": FrontEnds}
        for name in document:
            if name not in known:
                self._add(str(name), "", f"there is no such section{_nearest(name, known)}")
        providers = self._named("providers", ProviderSection, document.get("providers", {}))
        if "providers" not in document:
            providers = {"software": ProviderSection(uri="software:")}
        daemon = self._section("daemon", DaemonSection, document.get("daemon", {}))
        socket = os.environ.get(SOCKET_VARIABLE, "")
        if daemon is not None and daemon.socket is None and socket:
            daemon = msgspec.structs.replace(daemon, socket=Path(socket))
        return Config(
            daemon=daemon or DaemonSection(),
            store=self._section("store", StoreSection, document.get("store", {})) or StoreSection(),
            providers=providers,
            namespaces=self._named("namespaces", NamespaceSection, document.get("namespaces", {})),
            log=self._section("log", LogSection, document.get("log", {})) or LogSection(),
            frontends=self._front_ends(document.get("frontends", {})),
        )

    def _front_ends(self, tables: object) -> FrontEnds:
        if not isinstance(tables, dict):
            self._add("frontends", "", "it is a group of sections, such as [frontends.p11kit]")
            return FrontEnds()
        known = [field.name for field in msgspec.structs.fields(FrontEnds)]
        for name in tables:
            if name not in known:
                self._add(f"frontends.{name}", "", f"there is no such front end{_nearest(str(name), known)}")
        return FrontEnds(
            p11kit=self._front_end("p11kit", P11KitSection, tables),
            ssh_agent=self._front_end("ssh_agent", SshAgentSection, tables),
        )

    def _front_end(self, name: str, kind: type[_Section], tables: Mapping[str, object]) -> _Section | None:
        return self._section(f"frontends.{name}", kind, tables[name]) if name in tables else None

    def sentence(self, problem: Problem) -> str:
        section, key, what = problem
        line = self._line(section, key)
        where = f"[{section}] {key}".rstrip()
        return f"{where}{f' (line {line})' if line else ''}: {what}"

    def _add(self, section: str, key: str, what: str) -> None:
        self.problems.append((section, key, what))

    def _named(self, name: str, kind: type[_Section], tables: object) -> dict[str, _Section]:
        if not isinstance(tables, dict):
            self._add(name, "", f"it is a group of sections, [{name}.NAME]")
            return {}
        read = {key: self._section(f"{name}.{key}", kind, table) for key, table in tables.items()}
        return {key: section for key, section in read.items() if section is not None}

    def _section(self, name: str, kind: type[_Section], table: object) -> _Section | None:
        if not isinstance(table, dict):
            self._add(name, "", "it is a section with keys of its own")
            return None
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        values: dict[str, object] = {}
        before = len(self.problems)
        for key, written in table.items():
            if key not in fields:
                self._add(name, key, f"there is no such key{_nearest(key, fields)}")
                continue
            try:
                value = msgspec.convert(written, fields[key].type, dec_hook=decode_value)
            except (msgspec.ValidationError, ValueError):
                self._add(name, key, f"it is {expected(fields[key].type)}, not {_shown(key, written)}")
                continue
            values[key] = self._folder / value if isinstance(value, Path) else value
        for field in fields.values():
            if field.required and field.name not in table:
                self._add(name, field.name, f"it is missing; it is {expected(field.type)}")
        return kind(**values) if len(self.problems) == before else None

    def _line(self, section: str, key: str) -> int | None:
        """Where a key or section header stands; None where it is written in a way that is not looked for."""
        current = ""
        for number, line in enumerate(self._lines, 1):
            header = _HEADER.match(line)
            if header:
                current = _unquoted(header[1])
                if not key and current == section:
                    return number
            elif key and current == section and (found := _KEY.match(line)) and _unquoted(found[1]) == key:
                return number
        return None


_HEADER = re.compile(r"\s*\[\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"\s*([^\s=]+)\s*=")


def _unquoted(name: str) -> str:
    return name.replace('"', "").replace("'", "").replace(" ", "")


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"


def _shown(key: str, written: object) -> str:
    """What was found: its kind, and a short word itself so that a typing error is seen, but where a secret may be."""
    if key.startswith(("pin_", "passphrase_")):
        return "what is there"
    match written:
        case bool():
            return str(written).lower()
        case int() | float():
            return f"{written}"
        case str() if re.fullmatch(r"[A-Za-z0-9_-]{1,16}", written):
            return f'"{written}"'
        case str():
            return "such a string"
        case dict():
            return "a table"
        case list():
            return "a list"
        case _:
            return "what is there"
