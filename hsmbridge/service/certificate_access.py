"""From what a request names to the certificate, trust store or CRL, for who may see or administer it."""

from collections.abc import Callable

from hsmbridge.core import messages as m
from hsmbridge.core.errors import RequestError, ResourceError, Status
from hsmbridge.core.identifiers import CryptoResourceId, QualifiedName, ResourceKind, parse_slot_name
from hsmbridge.engine.steps import Steps, store
from hsmbridge.keys.certificates import KIND_OF, not_found, require_administrator, visible
from hsmbridge.service.session import Session
from hsmbridge.storage.certificate_records import CertificateKind, CertificateRecord
from hsmbridge.storage.certificates import CertificateStore

_RESOURCE_KIND = {kind: resource for resource, kind in KIND_OF.items()}


class CertificateAccess:
    """Finds records for sessions. They are read each time: what was granted or taken away counts at once."""

    def __init__(self, certificates: CertificateStore) -> None:
        """Args: where they are."""
        self.store = certificates

    def resolve(self, session: Session, kind: ResourceKind, text: str) -> Steps[CryptoResourceId]:
        """The id of a name on this connection. Raises ResourceError (RESOURCE_NOT_FOUND)."""
        if kind not in KIND_OF:
            raise ResourceError(Status.RESOURCE_NOT_FOUND)
        record = yield from self.visible(session, KIND_OF[kind], text)
        return session.certificates.named(kind, record.name)

    def visible(self, session: Session, kind: CertificateKind, reference: m.Reference) -> Steps[CertificateRecord]:
        """What a name or an id stands for. Raises ResourceError (RESOURCE_NOT_FOUND)."""
        name = self._name(session, kind, reference)
        record = yield from store(lambda: self.store.find(kind, name))
        return visible(record, kind, name, session.principal)

    def administered(self, session: Session, kind: CertificateKind, text: str) -> Steps[CertificateRecord]:
        """What a name stands for, if the caller administers it. Raises ResourceError, AccessError."""
        name = parse_slot_name(text, session.principal)
        record = yield from store(lambda: self.store.find(kind, name))
        return require_administrator(record, kind, name, session.principal)

    def change(
        self,
        session: Session,
        record: CertificateRecord,
        decide: Callable[[CertificateRecord], CertificateRecord | None],
    ) -> Steps[CertificateRecord]:
        """Change a record that the caller administers, also still when it is changed. Raises what `decide` raises."""

        def checked(current: CertificateRecord) -> CertificateRecord | None:
            require_administrator(current, current.kind, current.name, session.principal)
            return decide(current)

        changed = yield from store(lambda: self.store.change(record.id, checked))
        if changed is None:
            raise not_found(record.kind, record.name)
        return changed

    def remove(self, session: Session, record: CertificateRecord) -> Steps[None]:
        """Remove a record that the caller administers."""

        def checked(current: CertificateRecord) -> None:
            require_administrator(current, current.kind, current.name, session.principal)

        yield from store(lambda: self.store.change(record.id, checked))

    @staticmethod
    def _name(session: Session, kind: CertificateKind, reference: m.Reference) -> QualifiedName:
        if isinstance(reference, str):
            return parse_slot_name(reference, session.principal)
        if reference.kind is not _RESOURCE_KIND[kind]:
            raise RequestError(Status.INVALID_ARGUMENT, f"This id is of another kind; a {kind} is needed here.")
        return session.certificates.name(reference)


def access_of(record: CertificateRecord) -> list[m.AccessInfo]:
    """The access list of a record as messages carry it."""
    return [m.AccessInfo(entry.principal, entry.role, 0) for entry in record.access]
