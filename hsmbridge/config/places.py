"""Where configuration and state are, when nobody says."""

import os
from pathlib import Path

CONFIG_VARIABLE = "HSMBRIDGE_CONFIG"
_FILE_NAME = "hsmbridge.toml"


def default_config_file() -> Path:
    """The file that is read unless another is named; it need not exist."""
    if os.geteuid() == 0:
        return Path("/etc/hsmbridge") / _FILE_NAME
    return _base("XDG_CONFIG_HOME", ".config") / "hsmbridge" / _FILE_NAME


def default_state_directory() -> Path:
    """Where the store is unless the configuration says otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/hsmbridge")
    return _base("XDG_STATE_HOME", ".local/state") / "hsmbridge"


def _base(variable: str, below_home: str) -> Path:
    # The XDG base directory specification: a relative path is to be ignored.
    named = Path(os.environ.get(variable, ""))
    return named if named.is_absolute() else Path.home() / below_home
