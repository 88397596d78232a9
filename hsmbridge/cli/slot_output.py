"""What the slot commands have in common: a slot shown to people and in JSON, and lists on the command line."""

from hsmbridge.cli.options import Client
from hsmbridge.cli.output import Json, print_json, print_line, print_pairs, print_table, timestamp
from hsmbridge.client import CryptoStack, KeyOperationPermission, SlotInfo, VersionInfo
from hsmbridge.client.key_formats.pem import public_key_pem
from hsmbridge.core.errors import RequestError, ResourceError, Status
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.permissions import permission_names

_USUAL = "generated"


def slot_document(info: SlotInfo) -> dict[str, Json]:
    """A slot as JSON documents carry it."""
    return {
        "name": info.name,
        "key_type": info.key_type,
        "providers": list(info.providers),
        "permissions": _names(info.permissions),
        "algorithms": list(info.algorithms),
        "nonce_policy": info.nonce_policy.value,
        "fallback": info.fallback,
        "sign_and_decrypt": info.sign_and_decrypt,
        "derive_to_software": info.derive_to_software,
        "imported_wrapping_key": info.imported_wrapping_key,
        "generation": info.generation,
        "created": timestamp(info.created),
        "versions": [
            {
                "number": version.number,
                "state": version.state,
                "provider": version.provider,
                "protection": version.protection,
                "permissions": _names(version.permissions),
                "public_key": public_key_pem(version.public_key) if version.public_key else None,
                "created": timestamp(version.created),
                "uri": version.uri,
                "unavailable": version.unavailable,
                "fell_back_from": version.fell_back_from,
                "origin": version.origin,
            }
            for version in info.versions
        ],
        "access": [
            {"principal": entry.principal, "role": entry.role.value, "permissions": _names(entry.permissions)}
            for entry in info.access
        ],
    }


def print_slot(client: Client, info: SlotInfo) -> None:
    """A slot on stdout."""
    if client.as_json:
        print_json(slot_document(info))
        return
    flags = ("fallback", "sign_and_decrypt", "derive_to_software", "imported_wrapping_key")
    document = slot_document(info)
    print_pairs(
        [
            ("name", info.name),
            ("key type", info.key_type),
            ("providers", ", ".join(info.providers)),
            ("permissions", ", ".join(names_of(info.permissions))),
            ("algorithms", ", ".join(info.algorithms) or "all that fit the key type"),
            ("nonces", info.nonce_policy.value),
            ("also", ", ".join(flag for flag in flags if document[flag])),
            ("created", timestamp(info.created)),
        ]
    )
    if info.versions:
        print_table(
            ("VERSION", "STATE", "WHERE", "PROVIDER", "CREATED", "NOTE"),
            [_version_row(version) for version in info.versions],
        )
    for version in info.versions:
        if version.uri:
            print_line(f"version {version.number}: {version.uri}")
    print_table(
        ("WHO", "ROLE", "MAY"),
        [(entry.principal, entry.role.value, ", ".join(names_of(entry.permissions))) for entry in info.access],
    )


def _version_row(version: VersionInfo) -> tuple[str, ...]:
    origin = "" if version.origin == _USUAL else version.origin
    notes = [origin, version.unavailable, version.fell_back_from and f"fell back from {version.fell_back_from}"]
    return (
        f"{version.number}",
        version.state,
        version.protection,
        version.provider,
        timestamp(version.created),
        "; ".join(note for note in notes if note),
    )


def slot_row(info: SlotInfo) -> tuple[str, ...]:
    """A slot as a row of a list."""
    active = [version for version in info.versions if version.state == KeyVersionState.ACTIVE]
    where = f"{active[0].protection} ({active[0].provider})" if active else "no active key"
    if active and active[0].unavailable:
        where += ", unavailable"
    return (info.name, info.key_type, ", ".join(names_of(info.permissions)), f"{len(info.versions)}", where)


def public_key_of(info: SlotInfo, number: int | None) -> bytes:
    """The public key of a version, or with None of the active one. Raises RequestError, ResourceError."""
    for version in info.versions:
        wanted = version.state == KeyVersionState.ACTIVE if number is None else version.number == number
        if wanted:
            if not version.public_key:
                raise RequestError(
                    Status.KEY_TYPE_MISMATCH, f"Keys of type {info.key_type} are secret keys and have no public half."
                )
            return version.public_key
    which = "no active key" if number is None else f"no version {number}"
    raise ResourceError(Status.RESOURCE_NOT_FOUND, f"Slot {info.name} has {which}.")


def only_provider(stack: CryptoStack) -> list[str]:
    """The one provider that is configured. Raises RequestError, naming the choices, where there are more."""
    names = [provider.name for provider in stack.providers()]
    if len(names) == 1:
        return names
    raise RequestError(Status.INVALID_ARGUMENT, f"Say where with --provider: {', '.join(names)}.")


def listed(text: str) -> list[str]:
    """The items of a list with commas."""
    return [item.strip() for item in text.split(",") if item.strip()]


def names_of(permissions: int) -> tuple[str, ...]:
    """The names of a bitmask."""
    return permission_names(KeyOperationPermission(permissions))


def _names(permissions: int) -> list[Json]:
    return list(names_of(permissions))
