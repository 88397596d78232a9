"""`hsmbridge ssh-agent env`: what a shell is told, and what happens where there is no agent."""

from pathlib import Path

from tests.unit.cli.command import hsmbridge


def configuration(folder: Path, section: str) -> Path:
    file = folder / "hsmbridge.toml"
    file.write_text(f'[daemon]\nruntime_dir = "/run/hb"\nstate_dir = "/var/hb"\n{section}\n')
    return file


def test_a_shell_is_told_where_the_agent_is(tmp_path: Path) -> None:
    file = configuration(tmp_path, "[frontends.ssh_agent]")
    ended = hsmbridge("ssh-agent", "env", "--config", file)
    assert (ended.code, ended.text) == (0, "export SSH_AUTH_SOCK=/run/hb/ssh-agent.sock\n")
    assert hsmbridge("ssh-agent", "env", "--config", file, "--json").json == {"socket": "/run/hb/ssh-agent.sock"}


def test_a_place_with_a_blank_is_quoted(tmp_path: Path) -> None:
    file = configuration(tmp_path, '[frontends.ssh_agent]\nsocket = "/run/a place"')
    assert hsmbridge("ssh-agent", "env", "--config", file).text == "export SSH_AUTH_SOCK='/run/a place'\n"


def test_without_the_section_it_says_what_to_add(tmp_path: Path) -> None:
    ended = hsmbridge("ssh-agent", "env", "--config", configuration(tmp_path, ""))
    assert ended.code != 0
    assert ended.stdout == b""
    assert "add a section [frontends.ssh_agent]" in ended.stderr
