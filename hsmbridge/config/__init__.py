"""The configuration of the daemon: its sections, reading it from TOML or JSON, and the secret that it points at."""

from hsmbridge.config.places import CONFIG_VARIABLE, default_config_file, default_state_directory
from hsmbridge.config.reading import InvalidConfiguration, find_config, load_config, parse_config
from hsmbridge.config.secrets import read_passphrase
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
from hsmbridge.config.values import ByteSize, FileMode, expected

__all__ = [
    "CONFIG_VARIABLE",
    "ByteSize",
    "Config",
    "DaemonSection",
    "FileMode",
    "FrontEnds",
    "InvalidConfiguration",
    "LogSection",
    "NamespaceSection",
    "P11KitSection",
    "ProviderSection",
    "SshAgentSection",
    "StoreSection",
    "default_config_file",
    "default_state_directory",
    "expected",
    "find_config",
    "load_config",
    "parse_config",
    "read_passphrase",
]
