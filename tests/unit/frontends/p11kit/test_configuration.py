"""The section [frontends.p11kit]: off without it, and told with its line where it is wrong."""

from pathlib import Path

import pytest

from hsmbridge.config import InvalidConfiguration, P11KitSection, parse_config
from hsmbridge.config.service import supervisor_settings
from hsmbridge.daemon.spec import decode_worker_spec

FOLDER = Path("/etc/hb")
PLACES = '[daemon]\nruntime_dir = "/run/hb"\nstate_dir = "/var/hb"\n'


def test_without_the_section_there_is_no_such_front_end() -> None:
    config = parse_config(PLACES, "file", FOLDER)
    assert config.frontends.p11kit is None
    settings = supervisor_settings(config, None)
    assert settings.front_ends == ()
    assert decode_worker_spec(settings.worker_spec).p11kit is None


def test_the_section_alone_switches_it_on_for_the_daemons_own_user() -> None:
    config = parse_config(PLACES + "[frontends.p11kit]", "file", FOLDER)
    assert config.frontends.p11kit == P11KitSection()
    (socket,) = supervisor_settings(config, None).front_ends
    assert (socket.name, socket.path, socket.mode) == ("p11kit", Path("/run/hb/p11kit.sock"), 0o600)


def test_a_pin_is_read_where_it_is_asked_for_and_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "pin").touch(mode=0o600)
    (tmp_path / "pin").write_text("13571113\n")
    text = PLACES + '[frontends.p11kit]\nlogin = "pin"\npin_file = "pin"'
    settings = supervisor_settings(parse_config(text, "file", tmp_path), None)
    told = decode_worker_spec(settings.worker_spec)
    assert told.p11kit is not None
    assert told.p11kit.pin == b"13571113"
    assert "13571113" not in repr(settings) + repr(told) + repr(told.p11kit)


def test_a_pin_that_others_can_read_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "pin").touch(mode=0o644)
    (tmp_path / "pin").write_text("13571113\n")
    text = PLACES + '[frontends.p11kit]\nlogin = "pin"\npin_file = "pin"'
    with pytest.raises(Exception, match="read or changed by others"):
        supervisor_settings(parse_config(text, "file", tmp_path), None)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("[frontends]\np11kit = 3", r"\[frontends\.p11kit\].*a section with keys of its own"),
        ("[frontends.p11kits]", "did you mean p11kit"),
        ('[frontends.p11kit]\ntoken = "merged"', "did you mean tokens"),
        ('[frontends.p11kit]\ntokens = "one"', 'one of "merged", "providers"'),
        ('[frontends.p11kit]\nlogin = "pin"', "say where the PIN is"),
        ('[frontends.p11kit]\npin_file = "pin"', "only read where login"),
        ('[frontends.p11kit]\ntrust_stores = ["web"]', "is no NAMESPACE/NAME"),
        ('[frontends.p11kit]\ntrust_stores = ["a/b/c"]', "is no NAMESPACE/NAME"),
        ('[frontends.p11kit]\nsocket = "/run/hb/hsmbridge.sock"', "the native front end listens there"),
        (f'[frontends.p11kit]\nsocket = "/{"x" * 120}"', "the kernel takes"),
        ("frontends = 1", "group of sections"),
    ],
)
def test_what_is_wrong_is_told(lines: str, said: str) -> None:
    text = lines + "\n" + PLACES if lines.startswith("frontends") else PLACES + lines
    with pytest.raises(InvalidConfiguration, match=said):
        parse_config(text, "file", FOLDER)
