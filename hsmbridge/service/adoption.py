"""Adoption: a slot of a key that a token or TPM holds already, made by somebody else and left where it is.

Who names a key by where it is could name anybody's, so only operators may; who brings it in a form that only its
TPM opens has it already. A key that is in a slot is never adopted into another: the end of one would end both.
"""

from dataclasses import replace

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.calls import ForeignKey
from hsmbridge.core.errors import AccessError, ProviderError, RequestError, Status, error
from hsmbridge.core.key_types import key_type
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import permissions_from_bits
from hsmbridge.core.pkcs11_uri import SCHEME, parse_uri
from hsmbridge.engine.steps import Steps, for_foreign_key, for_key, store
from hsmbridge.keys.origin import permissions_of_adopted_key
from hsmbridge.keys.slots import NamespacePolicy, Slots, plan_slot
from hsmbridge.service.catalogue import ProviderCatalogue
from hsmbridge.service.default_algorithms import default_algorithms
from hsmbridge.service.key_making import KeyMaking, check_material
from hsmbridge.service.session import Session
from hsmbridge.service.slots import SlotAdministration
from hsmbridge.storage.records import Origin
from hsmbridge.storage.store import Store

_PROBE_TYPE = "AES-256"
"""Any type: what is checked before the token is asked does not depend on it."""


class Adoption:
    """The operation slot-adopt."""

    def __init__(
        self,
        catalogue: ProviderCatalogue,
        store_: Store,
        slots: Slots,
        making: KeyMaking,
        administration: SlotAdministration,
        policy: NamespacePolicy,
        operators: frozenset[str],
    ) -> None:
        """Args: the parts that making a slot goes through, who may create slots where, and who are operators."""
        self._catalogue = catalogue
        self._store = store_
        self._slots = slots
        self._making = making
        self._administration = administration
        self._policy = policy
        self._operators = operators

    def adopt(self, session: Session, request: m.SlotAdoptRequest) -> Steps[m.SlotAdoptReply]:
        """Examine the key, then make a slot of it that allows at most what its token and the rules do."""
        self._check(session, request)
        description = self._description(request.provider)
        examined = yield from for_foreign_key(request.provider, calls.ExamineCall(request.uri, request.material))
        row = key_type(examined.key_type)
        yield from self._check_not_ours(request, examined)
        permissions = permissions_of_adopted_key(
            row, P(examined.permissions & int(~P.NONE)), permissions_from_bits(request.permissions), request
        )
        new = plan_slot(_creation(request, row.name, permissions), session.principal, self._policy)
        self._catalogue.require_offered(new.providers, new.algorithms)
        if not new.algorithms:
            new = replace(new, algorithms=default_algorithms(row, permissions, [description]))
        choice = self._catalogue.choose((request.provider,), row.name, fallback=False, generate=False)
        first = self._making.new_version(choice, permissions, Origin.ADOPTED)
        begun = yield from store(lambda: self._slots.create(new, first))
        record = yield from self._making.complete(
            begun,
            first.key_id,
            lambda target: for_key(request.provider, calls.AdoptCall(target, request.uri, request.material)),
        )
        shown = yield from self._administration.show(session, m.SlotShowRequest(str(record.name)))
        return m.SlotAdoptReply(shown, examined.permissions, examined.label)

    def _check(self, session: Session, request: m.SlotAdoptRequest) -> None:
        if bool(request.uri) is bool(request.material) or request.uri == calls.OWN_REFERENCE:
            raise RequestError(Status.INVALID_ARGUMENT, "Say where the key is, or give it as a file: one of the two.")
        # Name, namespace and permissions are refused before the token is asked anything.
        plan_slot(_creation(request, _PROBE_TYPE, P.NONE), session.principal, self._policy)
        permissions_from_bits(request.permissions)
        check_material(request.material)
        if request.uri and session.principal not in self._operators:
            raise AccessError(
                Status.ACCESS_DENIED,
                "A key is adopted from where it is on a token by the daemon's own user or root only.",
            )
        if request.uri[: len(SCHEME)].lower() == SCHEME:
            parse_uri(request.uri)

    def _description(self, provider: str) -> calls.Description:
        entry = self._catalogue.entry(provider)
        if not entry.available or entry.description is None:
            raise entry.reason or ProviderError(
                Status.PROVIDER_UNAVAILABLE, f"Provider {provider} is not available yet; try again shortly."
            )
        if not entry.description.adopts:
            raise RequestError(
                Status.NOT_SUPPORTED, f"Provider {provider} has no keys but its own; tokens and TPMs may have others."
            )
        return entry.description

    def _check_not_ours(self, request: m.SlotAdoptRequest, examined: ForeignKey) -> Steps[None]:
        listing = yield from store(self._store.list_slots)
        named = parse_uri(request.uri).id if request.uri[: len(SCHEME)].lower() == SCHEME else None
        for record in listing.records:
            for version in record.versions:
                if version.provider != request.provider or version.state is KeyVersionState.DESTROYED:
                    continue
                same_id = named is not None and version.key_id == named
                if same_id or (examined.public_key and version.public_key == examined.public_key):
                    # Which slot is not told: the caller may not see it.
                    raise error(Status.RESOURCE_EXISTS, "This key is the key of a slot already; use that slot.")


def _creation(request: m.SlotAdoptRequest, key_type_name: str, permissions: P) -> m.SlotCreateRequest:
    return m.SlotCreateRequest(
        name=request.name,
        key_type=key_type_name,
        providers=(request.provider,),
        permissions=int(permissions),
        algorithms=request.algorithms if permissions else (),
        nonce_policy=request.nonce_policy,
        sign_and_decrypt=request.sign_and_decrypt,
        derive_to_software=request.derive_to_software,
        imported_wrapping_key=request.imported_wrapping_key,
        empty=False,
    )
