"""Administration of slots: create, list, show, rotate, revoke, destroy, grant, ungrant."""

from dataclasses import replace

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.errors import HsmBridgeError, ProviderError, Status
from hsmbridge.core.identifiers import check_principal
from hsmbridge.core.key_types import key_type
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.permissions import permissions_from_bits
from hsmbridge.core.pkcs11_uri import key_uri
from hsmbridge.engine.handles import Handles
from hsmbridge.engine.steps import Steps, for_nothing, store
from hsmbridge.keys.access import AcquiredKey, require_administrator, require_new_version, visible
from hsmbridge.keys.origin import permissions_of_new_key
from hsmbridge.keys.slots import NamespacePolicy, Slots, plan_slot
from hsmbridge.service.catalogue import ProviderCatalogue
from hsmbridge.service.default_algorithms import default_algorithms
from hsmbridge.service.key_access import KeyAccess
from hsmbridge.service.key_making import KeyMaking
from hsmbridge.service.session import Session
from hsmbridge.storage.records import Origin, SlotRecord, VersionRecord
from hsmbridge.storage.store import Store

_SHOWN = frozenset(KeyVersionState) - {KeyVersionState.CREATING, KeyVersionState.ABANDONED}
_HAS_MATERIAL = frozenset({KeyVersionState.PRE_ACTIVE, KeyVersionState.ACTIVE, KeyVersionState.ROTATED})


class SlotAdministration:
    """One method an operation."""

    def __init__(
        self,
        catalogue: ProviderCatalogue,
        store_: Store,
        slots: Slots,
        access: KeyAccess,
        making: KeyMaking,
        handles: Handles,
        policy: NamespacePolicy,
    ) -> None:
        """Args: the parts that administration goes through, and who may create slots where."""
        self._catalogue = catalogue
        self._store = store_
        self._slots = slots
        self._access = access
        self._making = making
        self._handles = handles
        self._policy = policy

    def create(self, session: Session, request: m.SlotCreateRequest) -> Steps[m.SlotInfo]:
        new = plan_slot(request, session.principal, self._policy)
        self._catalogue.require_offered(new.providers, new.algorithms)
        row = key_type(new.key_type)
        descriptions = [self._catalogue.entry(provider).description for provider in new.providers]
        if not new.algorithms:
            new = replace(new, algorithms=default_algorithms(row, new.permissions, descriptions))
        if request.empty:
            record = yield from store(lambda: self._slots.create(new, None))
        else:
            plan = self._making.generation(new.providers, row, fallback=new.fallback)
            permissions = permissions_of_new_key(row, new.permissions, Origin.GENERATED, new)
            first = self._making.new_version(plan.choice, permissions, Origin.GENERATED)
            begun = yield from store(lambda: self._slots.create(new, first))
            record = yield from self._making.complete(begun, first.key_id, plan.make)
        entry = yield from self._access.named(session, str(record.name))
        yield from self._access.refresh(entry)
        return self._info(record)

    def list_slots(self, session: Session, request: m.SlotListRequest) -> Steps[m.SlotListReply]:
        listing = yield from store(lambda: self._store.list_slots(request.namespace, session.principal))
        return m.SlotListReply([self._info(record) for record in listing.records])

    def show(self, session: Session, request: m.SlotShowRequest) -> Steps[m.SlotInfo]:
        entry = yield from self._access.named(session, request.name)
        record = visible(entry, session.principal)
        missing: dict[int, str] = {}
        for version in record.versions:
            if request.probe and version.state in _HAS_MATERIAL and not self._unavailable(version):
                missing[version.number] = yield from self._try_loading(record, version)
        return self._info(record, missing)

    def rotate(self, session: Session, request: m.SlotRotateRequest) -> Steps[m.SlotInfo]:
        entry = yield from self._access.named(session, request.name)
        record = require_new_version(entry, session.principal)
        row = key_type(record.key_type)
        plan = self._making.generation(record.providers, row, fallback=record.fallback)
        yield from self._making.into_slot(record, row, record.permissions, Origin.GENERATED, plan)
        yield from self._access.refresh(entry)
        return self._info(visible(entry, session.principal))

    def revoke(self, session: Session, request: m.SlotRevokeRequest) -> Steps[m.SlotInfo]:
        record = yield from self._administered(session, request.name)
        changed = yield from store(lambda: self._slots.revoke(record.id, request.version))
        return self._info(changed)

    def destroy(self, session: Session, request: m.SlotDestroyRequest) -> Steps[m.Empty]:
        record = yield from self._administered(session, request.name)
        begun = yield from store(lambda: self._slots.begin_destroy(record.id, request.version))
        left: HsmBridgeError | None = None
        for version in begun.versions:
            if version.state is KeyVersionState.DESTROYING:
                try:
                    yield from self.finish_destroying(begun, version)
                except HsmBridgeError as failure:
                    left = failure
        if left is not None:
            raise ProviderError(
                Status.PROVIDER_UNAVAILABLE,
                f"{_what(begun, request.version)} cannot be used any more, but its key material is not removed yet:"
                f" {left.message} It will be removed once the provider is available.",
                origin=left.origin,
            )
        return m.Empty()

    def finish_destroying(self, record: SlotRecord, version: VersionRecord) -> Steps[None]:
        """Remove the material of a version that is being destroyed, then say so in the store."""
        self._handles.forget(version.key_id)
        yield from for_nothing(version.provider, calls.DestroyCall(version.key_id, record.key_type, version.reference))
        yield from store(lambda: self._slots.finish_destroy(record.id, version.key_id))

    def grant(self, session: Session, request: m.SlotGrantRequest) -> Steps[m.SlotInfo]:
        record = yield from self._administered(session, request.name)
        principal = check_principal(request.principal)
        permissions = permissions_from_bits(request.permissions)
        changed = yield from store(lambda: self._slots.grant(record.id, principal, request.role, permissions))
        return self._info(changed)

    def ungrant(self, session: Session, request: m.SlotUngrantRequest) -> Steps[m.SlotInfo]:
        record = yield from self._administered(session, request.name)
        principal = check_principal(request.principal)
        changed = yield from store(lambda: self._slots.ungrant(record.id, principal))
        return self._info(changed)

    def set_attributes(self, session: Session, request: m.SlotAttributesRequest) -> Steps[m.SlotInfo]:
        record = yield from self._administered(session, request.name)
        changed = yield from store(lambda: self._slots.set_attributes(record.id, request.attributes))
        return self._info(changed)

    def _administered(self, session: Session, name: str) -> Steps[SlotRecord]:
        entry = yield from self._access.named(session, name)
        return require_administrator(entry, session.principal)

    def _try_loading(self, record: SlotRecord, version: VersionRecord) -> Steps[str]:
        key = AcquiredKey.of_version(record, version)
        try:
            yield from self._handles.load(key)
        except HsmBridgeError as failure:
            return failure.message
        return ""

    def _unavailable(self, version: VersionRecord) -> str:
        entry = self._catalogue.entries.get(version.provider)
        if entry is None:
            return f"No provider {version.provider} is configured."
        if entry.reason is not None:
            return entry.reason.message
        serial = entry.description.token.serial if entry.description is not None else ""
        if version.token and serial and version.token != serial:
            return (
                f"The key lives on the token with serial {version.token}, and provider {version.provider} has"
                f" another, {serial}; connect the right one."
            )
        return ""

    def _info(self, record: SlotRecord, missing: dict[int, str] | None = None) -> m.SlotInfo:
        return m.SlotInfo(
            name=str(record.name),
            key_type=record.key_type,
            providers=record.providers,
            permissions=int(record.permissions),
            algorithms=record.algorithms,
            nonce_policy=record.nonce_policy,
            fallback=record.fallback,
            sign_and_decrypt=record.sign_and_decrypt,
            derive_to_software=record.derive_to_software,
            imported_wrapping_key=record.imported_wrapping_key,
            generation=record.generation,
            created=record.created,
            versions=[
                self._version_info(version, (missing or {}).get(version.number, ""))
                for version in record.versions
                if version.state in _SHOWN
            ],
            access=[m.AccessInfo(entry.principal, entry.role, int(entry.permissions)) for entry in record.access],
            attributes=dict(record.attributes),
        )

    def _version_info(self, version: VersionRecord, missing: str) -> m.VersionInfo:
        entry = self._catalogue.entries.get(version.provider)
        token = None if entry is None or entry.description is None else entry.description.token
        has_material = version.state in _HAS_MATERIAL
        uri = ""
        # An adopted key keeps the CKA_ID that its maker gave it; ours names nothing on the token.
        known = version.origin is not Origin.ADOPTED
        if (
            has_material
            and known
            and token is not None
            and token.uri.startswith("pkcs11:")
            and version.token == token.serial
        ):
            uri = key_uri(token, version.key_id)
        return m.VersionInfo(
            number=version.number,
            state=version.state,
            provider=version.provider,
            protection=version.protection or "",
            permissions=int(version.permissions),
            public_key=version.public_key,
            created=version.created,
            uri=uri,
            unavailable=(missing or self._unavailable(version)) if has_material else "",
            fell_back_from=version.fell_back_from,
            origin=version.origin,
        )


def _what(record: SlotRecord, number: int) -> str:
    return f"Version {number} of slot {record.name}" if number else f"Slot {record.name}"
