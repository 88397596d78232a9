"""`status` and `providers`: what the daemon says of itself."""

import click

from hsmbridge.cli.options import Client, client_options
from hsmbridge.cli.output import Json, print_json, print_line, print_pairs, print_table
from hsmbridge.client import ProviderInfo
from hsmbridge.core.errors import ProviderError, Status


@click.command()
@client_options
def status(client: Client) -> None:
    """Show the daemon process that answers, and who it takes you for."""
    with client.stack() as stack:
        found = stack.status()
        max_frame = stack.max_frame
    if client.as_json:
        print_json(
            {
                "version": found.version,
                "pid": found.pid,
                "supervisor_pid": found.supervisor_pid,
                "workers": found.workers,
                "uptime": round(found.uptime, 3),
                "connections": found.connections,
                "contexts": found.contexts,
                "keys": found.keys,
                "principal": found.principal,
                "store": found.store,
                "protector": found.protector,
                "max_frame": max_frame,
            }
        )
        return
    print_pairs(
        [
            ("hsmbridge", found.version),
            ("processes", f"worker {found.pid} of {found.workers}, supervisor {found.supervisor_pid}"),
            ("running for", _duration(found.uptime)),
            ("connections", f"{found.connections}"),
            ("open contexts", f"{found.contexts} of this worker"),
            ("ephemeral keys", f"{found.keys} of this worker"),
            ("store", f"{found.store}, master key under a {found.protector}"),
            ("most data in a call", f"{max_frame:,} bytes"),
            ("you are", found.principal),
        ]
    )


@click.command()
@click.argument("name", required=False)
@client_options
def providers(client: Client, name: str | None) -> None:
    """List the providers, or show what the one called NAME can do."""
    with client.stack() as stack:
        found = stack.providers()
    if name is not None:
        found = [provider for provider in found if provider.name == name]
        if not found:
            raise ProviderError(Status.PROVIDER_NOT_CONFIGURED)
    if client.as_json:
        documents: list[Json] = [provider_document(provider) for provider in found]
        print_json(documents if name is None else documents[0])
    elif name is None:
        print_table(
            ("NAME", "KIND", "RUNS IN", "STATE", "CALLS", "TOKEN OR REASON"),
            [_row(provider) for provider in found],
        )
    else:
        _show(found[0])


def provider_document(provider: ProviderInfo) -> dict[str, Json]:
    """A provider as JSON documents carry it."""
    token: Json = None
    if provider.token is not None:
        token = {
            "label": provider.token.label,
            "serial": provider.token.serial,
            "manufacturer": provider.token.manufacturer,
            "model": provider.token.model,
            "firmware": provider.token.firmware,
            "uri": provider.token.uri,
        }
    return {
        "name": provider.name,
        "scheme": provider.scheme,
        "isolation": provider.isolation,
        "state": provider.state,
        "reason": provider.reason,
        "pid": provider.pid,
        "calls": provider.calls,
        "token": token,
        "key_types": list(provider.key_types),
        "algorithms": {claim.algorithm: list(claim.operations) for claim in provider.claims},
        "notes": list(provider.notes),
        "adopts": provider.adopts,
        "attests": provider.attests,
        "exports": list(provider.exports),
    }


def _row(provider: ProviderInfo) -> tuple[str, ...]:
    return (
        provider.name,
        provider.scheme,
        f"{provider.isolation} {provider.pid}" if provider.pid else provider.isolation,
        provider.state,
        f"{provider.calls}",
        provider.reason or _token(provider),
    )


def _show(provider: ProviderInfo) -> None:
    print_pairs(
        [
            ("name", provider.name),
            ("kind", provider.scheme),
            ("runs in", f"{provider.isolation} {provider.pid}" if provider.pid else provider.isolation),
            ("state", provider.state),
            ("reason", provider.reason),
            ("calls", f"{provider.calls}"),
            ("token", _token(provider)),
            ("uri", provider.token.uri if provider.token is not None else ""),
            ("key types", ", ".join(provider.key_types)),
            ("adopts", "keys that are there already" if provider.adopts else ""),
            ("attests", "its keys" if provider.attests else ""),
            ("exports", ", ".join(provider.exports)),
        ]
    )
    for note in provider.notes:
        print_line(f"note: {note}")
    if provider.claims:
        print_table(
            ("ALGORITHM", "OPERATIONS"), [(claim.algorithm, ", ".join(claim.operations)) for claim in provider.claims]
        )


def _token(provider: ProviderInfo) -> str:
    token = provider.token
    if token is None:
        return ""
    return " ".join(part for part in (token.label, token.serial and f"(serial {token.serial})") if part)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02}:{minutes:02}:{rest:02}" if days else f"{hours:02}:{minutes:02}:{rest:02}"
