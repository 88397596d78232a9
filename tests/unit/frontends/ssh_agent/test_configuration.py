"""The section [frontends.ssh_agent]: off without it, and told with its line where it is wrong."""

from pathlib import Path

import pytest

from hsmbridge.config import InvalidConfiguration, SshAgentSection, parse_config
from hsmbridge.config.service import supervisor_settings
from hsmbridge.daemon.spec import decode_worker_spec

FOLDER = Path("/etc/hb")
PLACES = '[daemon]\nruntime_dir = "/run/hb"\nstate_dir = "/var/hb"\n'


def test_without_the_section_there_is_no_agent() -> None:
    config = parse_config(PLACES, "file", FOLDER)
    assert config.frontends.ssh_agent is None
    settings = supervisor_settings(config, None)
    assert settings.front_ends == ()
    assert decode_worker_spec(settings.worker_spec).ssh_agent is None


def test_the_section_alone_switches_it_on_for_the_daemons_own_user() -> None:
    config = parse_config(PLACES + "[frontends.ssh_agent]", "file", FOLDER)
    assert config.frontends.ssh_agent == SshAgentSection()
    settings = supervisor_settings(config, None)
    (socket,) = settings.front_ends
    assert (socket.name, socket.path, socket.mode) == ("ssh_agent", Path("/run/hb/ssh-agent.sock"), 0o600)
    told = decode_worker_spec(settings.worker_spec).ssh_agent
    assert told is not None
    assert (told.slots, told.forwarding) == ((), True)


def test_it_stands_beside_pkcs11_with_a_socket_of_its_own() -> None:
    text = PLACES + '[frontends.p11kit]\n[frontends.ssh_agent]\nslots = ["*/ssh-*"]\nforwarding = "refuse"'
    settings = supervisor_settings(parse_config(text, "file", FOLDER), None)
    assert [socket.name for socket in settings.front_ends] == ["p11kit", "ssh_agent"]
    told = decode_worker_spec(settings.worker_spec).ssh_agent
    assert told is not None
    assert (told.slots, told.forwarding) == (("*/ssh-*",), False)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("[frontends]\nssh_agent = 3", r"\[frontends\.ssh_agent\].*a section with keys of its own"),
        ("[frontends.ssh-agent]", "did you mean ssh_agent"),
        ('[frontends.ssh_agent]\nslot = ["a"]', "did you mean slots"),
        ('[frontends.ssh_agent]\nslots = "a"', "a list of strings"),
        ('[frontends.ssh_agent]\nslots = [""]', "an empty name is no slot's"),
        ('[frontends.ssh_agent]\nforwarding = "maybe"', 'one of "allow", "refuse"'),
        ('[frontends.ssh_agent]\nsocket = "/run/hb/hsmbridge.sock"', "another front end listens there"),
        (
            '[frontends.p11kit]\n[frontends.ssh_agent]\nsocket = "/run/hb/p11kit.sock"',
            "another front end listens there",
        ),
        (f'[frontends.ssh_agent]\nsocket = "/{"x" * 120}"', "the kernel takes"),
    ],
)
def test_what_is_wrong_is_told(lines: str, said: str) -> None:
    with pytest.raises(InvalidConfiguration, match=said):
        parse_config(PLACES + lines, "file", FOLDER)
