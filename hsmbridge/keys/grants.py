"""What becomes of access lists and permissions: pure decisions, as in `hsmbridge.keys.versions`.

A permission can be taken away, never added; a mask stays within the slot's ceiling; somebody always administers.
"""

from dataclasses import replace

from hsmbridge.core.errors import KeyUseError, RequestError, ResourceError, Status
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import permission_names
from hsmbridge.core.policy import Role
from hsmbridge.keys.versions import no_version
from hsmbridge.storage.records import AccessEntry, SlotRecord, SlotState


def grant(record: SlotRecord, principal: str, role: Role, permissions: P) -> SlotRecord:
    """The principal has exactly this role and mask, whatever it had before.

    Raises:
        RequestError: INVALID_PERMISSIONS above the slot's ceiling, INVALID_ARGUMENT where nobody would administer.
    """
    _require_live(record)
    above = permissions & ~record.permissions
    if above:
        raise RequestError(
            Status.INVALID_PERMISSIONS,
            f"Slot {record.name} does not allow {', '.join(permission_names(above))};"
            f" it allows {', '.join(permission_names(record.permissions)) or 'nothing'}.",
        )
    entry = AccessEntry(principal, role, permissions)
    if record.entry_for(principal) == entry:
        return record
    return _with_access(record, principal, entry)


def ungrant(record: SlotRecord, principal: str) -> SlotRecord:
    """The principal has no access any more.

    Raises:
        ResourceError: RESOURCE_NOT_FOUND where it had none.
        RequestError: INVALID_ARGUMENT where nobody would administer.
    """
    _require_live(record)
    if record.entry_for(principal) is None:
        raise ResourceError(Status.RESOURCE_NOT_FOUND, f"{principal} has no access to slot {record.name}.")
    return _with_access(record, principal, None)


def restrict(record: SlotRecord, remove: P, number: int = 0) -> SlotRecord:
    """Permissions are taken away: from the slot with all its versions and access entries, or from one version.

    Raises:
        ResourceError: RESOURCE_NOT_FOUND where there is no such version.
    """
    _require_live(record)
    keep = ~remove
    if number and record.version(number) is None:
        raise no_version(record, number)
    versions = tuple(
        replace(version, permissions=version.permissions & keep) if number in (0, version.number) else version
        for version in record.versions
    )
    if number:
        changed = replace(record, versions=versions)
    else:
        access = tuple(replace(entry, permissions=entry.permissions & keep) for entry in record.access)
        changed = replace(record, permissions=record.permissions & keep, versions=versions, access=access)
    return record if changed == record else replace(changed, generation=record.generation + 1)


def _with_access(record: SlotRecord, principal: str, entry: AccessEntry | None) -> SlotRecord:
    others = tuple(other for other in record.access if other.principal != principal)
    access = others if entry is None else (*others, entry)
    if not any(other.role is Role.ADMINISTER for other in access):
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"{principal} is the last one who administers slot {record.name}; let somebody else administer it first.",
        )
    return replace(
        record, access=tuple(sorted(access, key=lambda other: other.principal)), generation=record.generation + 1
    )


def _require_live(record: SlotRecord) -> None:
    if record.state is not SlotState.LIVE:
        raise KeyUseError(Status.KEY_STATE_FORBIDS, f"Slot {record.name} is {record.state}.")
