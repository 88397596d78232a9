"""`config`: is the configuration right, and what does it come to."""

import click

from hsmbridge.cli.options import json_option
from hsmbridge.cli.output import Json, print_json, print_line, print_pairs
from hsmbridge.config import Config, find_config, load_config

config_option = click.option(
    "--config", "config_file", metavar="FILE", help="Configuration [default: $HSMBRIDGE_CONFIG or the usual]."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def config() -> None:
    """Check the configuration."""


@config.command()
@config_option
@json_option
def check(config_file: str | None, as_json: bool) -> None:
    """Read the configuration as `serve` does, and show what it comes to. Nothing is started."""
    source = find_config(config_file)
    found = load_config(config_file)
    if as_json:
        print_json({"valid": True, "file": None if source is None else str(source), "config": document(found)})
        return
    print_line(f"{source or 'no configuration file'}: valid")
    print_pairs(
        [
            ("socket", f"{found.socket} (mode {found.daemon.socket_mode})"),
            ("runtime_dir", f"{found.runtime_dir}"),
            ("state_dir", f"{found.state_dir}"),
            ("store", found.store_url),
            (
                "master key",
                f"key file {found.key_file}" if found.store.protector == "keyfile" else found.store.protector,
            ),
            ("workers", f"{found.daemon.workers}"),
            ("providers", ", ".join(f"{name} ({found.isolation(name)})" for name in found.providers)),
            ("namespaces", ", ".join(found.namespaces)),
        ]
    )


def document(found: Config) -> dict[str, Json]:
    """The settings as JSON documents carry them, with what stands in for those that are not given."""
    import msgspec

    sections: dict[str, Json] = msgspec.to_builtins(found, enc_hook=_plain)
    derived: dict[str, Json] = {
        "socket": str(found.socket),
        "runtime_dir": str(found.runtime_dir),
        "state_dir": str(found.state_dir),
        "store_url": found.store_url,
        "isolation": {name: found.isolation(name).value for name in found.providers},
    }
    return {**sections, "effective": derived}


def _plain(value: object) -> str | int:
    return int(value) if isinstance(value, int) else str(value)
