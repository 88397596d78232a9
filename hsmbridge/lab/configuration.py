"""The configuration of a lab's daemon, as a person would write it."""

import json
from pathlib import Path

from hsmbridge.lab.options import LabOptions
from hsmbridge.lab.rigs import SoftHsmToken, Swtpm
from hsmbridge.providers.registry import Isolation

RUNTIME_FOLDER = "run"
STATE_FOLDER = "state"


def configuration(directory: Path, options: LabOptions, token: SoftHsmToken, tpm: Swtpm | None) -> str:
    """The text of hsmbridge.toml. The PIN is not in it, only the name of its file."""
    isolation = f"isolation = {_string(options.isolation)}"
    sections = [
        [
            "[daemon]",
            f"runtime_dir = {_string(directory / RUNTIME_FOLDER)}",
            f"state_dir = {_string(directory / STATE_FOLDER)}",
            f"socket = {_string(directory / RUNTIME_FOLDER / 'hsmbridge.sock')}",
            f"workers = {options.workers}",
            f"cpu_affinity = {_string('spread' if options.spread else 'none')}",
            "drain_timeout = 5",
        ],
        ["[providers.software]", 'uri = "software:"'],
        [
            "[providers.softhsm]",
            f"uri = {_string(token.uri)}",
            isolation,
            f"threads = {options.threads}",
            f"pin_file = {_string(token.pin_file)}",
            # On threads the module reads the daemon's own variables, which the lab sets.
            *(_environment(token) if options.isolation is Isolation.PROCESS else ()),
        ],
    ]
    if tpm is not None:
        sections.append(["[providers.tpm]", f"uri = {_string(tpm.uri)}", isolation])
    sections += [[f"[frontends.{name}]"] for name in dict.fromkeys(options.frontends)]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _environment(token: SoftHsmToken) -> list[str]:
    return [f"environment.{name} = {_string(value)}" for name, value in token.environment.items()]


def _string(value: str | Path) -> str:
    """A TOML basic string; all of JSON's escapes are TOML's too."""
    return json.dumps(str(value), ensure_ascii=False)
