"""Making and destroying keys: token objects become slots, session objects ephemeral keys of the connection.

A slot is named after label and id, belongs to the caller, and leaves nonces to the caller, as PKCS#11 does.
"""

from typing import Final

from hsmbridge.core import messages as m
from hsmbridge.core.key_types import Family, KeyType, may_have_used_nonces
from hsmbridge.core.params import (
    X963,
    AgreeKeyParams,
    GenerateKeyParams,
    ImportKeyParams,
    UnwrapKeyParams,
    WrapKeyParams,
)
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.frontends.asking import Answer, Asking, ask
from hsmbridge.frontends.p11kit.certificates import CertificateObject
from hsmbridge.frontends.p11kit.material import given_key
from hsmbridge.frontends.p11kit.new_certificates import NewCertificates
from hsmbridge.frontends.p11kit.new_keys import NewKeys, nonce_policy
from hsmbridge.frontends.p11kit.numbers import KDF_NULL, KDF_OF, Cka, Ckm, Cko, Ckr, MechanismFlag
from hsmbridge.frontends.p11kit.objects import KeyObject
from hsmbridge.frontends.p11kit.public_keys import point_to_spki
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.state import Application, PkcsSession
from hsmbridge.frontends.p11kit.templates import (
    Template,
    Wanted,
    copied_algorithms,
    number,
    octets,
    pair_type,
    secret_type,
    table,
    wanted,
)
from hsmbridge.frontends.p11kit.under_way import require_permitted
from hsmbridge.frontends.p11kit.ways import wrapping_way
from hsmbridge.wire.p11kit import NO_UPDATE, Needed
from hsmbridge.wire.p11kit_attributes import Attribute
from hsmbridge.wire.p11kit_mechanisms import Mechanism, takes_parameter

_CLASSES: Final = {int(kind): kind for kind in Cko}


class Making:
    """One method a function of PKCS#11."""

    def __init__(self, application: Application) -> None:
        """`application`: whose calls these are."""
        self._application = application
        self._new = NewKeys(application)
        self._new_certificates = NewCertificates(application)

    def generate_key(self, handle: int, mechanism: Mechanism | None, template: tuple[Attribute, ...]) -> Answer:
        """C_GenerateKey."""
        session = self._new.user(handle, MechanismFlag.GENERATE, mechanism)
        given = table(template)
        ckk = _GENERATED_KIND.get(mechanism.type if mechanism else -1)
        row = secret_type(given, ckk, number(given, Cka.VALUE_LEN))
        made = yield from self._generate(session, row, {Cko.SECRET_KEY: given})
        return (made[Cko.SECRET_KEY],)

    def generate_key_pair(
        self,
        handle: int,
        mechanism: Mechanism | None,
        public: tuple[Attribute, ...],
        private: tuple[Attribute, ...],
    ) -> Answer:
        """C_GenerateKeyPair."""
        session = self._new.user(handle, MechanismFlag.GENERATE_KEY_PAIR, mechanism)
        templates = {Cko.PUBLIC_KEY: table(public), Cko.PRIVATE_KEY: table(private)}
        row = pair_type(mechanism.type if mechanism else -1, templates[Cko.PUBLIC_KEY])
        made = yield from self._generate(session, row, templates)
        return (made[Cko.PUBLIC_KEY], made[Cko.PRIVATE_KEY])

    def create_object(self, handle: int, template: tuple[Attribute, ...]) -> Answer:
        """C_CreateObject: a key in the clear is imported."""
        application = self._application
        session = application.session(handle)
        given = table(template)
        class_ = number(given, Cka.CLASS)
        if class_ is None:
            raise Refused(Ckr.TEMPLATE_INCOMPLETE)
        if class_ == Cko.CERTIFICATE:
            return ((yield from self._new_certificates.create(session, given)),)
        if class_ not in _CLASSES:
            raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)
        kind = _CLASSES[class_]
        key = given_key(kind, given)
        want = wanted(key.row, {kind: given}, application.settings.templates, from_outside=True)
        providers = session.token.makers(key.row.name, imports=True)

        def imported(slot: str) -> Asking[m.KeyReply]:
            params = ImportKeyParams(key_type=key.row.name, permissions=int(want.permissions), format=key.format)
            provider = "" if slot or not providers else providers[0]
            return ask(m.ImportRequest(params, key.material, slot, provider, nonce_policy(key.row, slot)), m.KeyReply)

        made = yield from self._new.make(session, key.row, want, providers, imported, (kind,))
        return (made[kind],)

    def copy_object(self, handle: int, object_handle: int, template: tuple[Attribute, ...]) -> Answer:
        """C_CopyObject: an ephemeral key is kept in a slot. Nothing else is copied."""
        application = self._application
        session = application.session(handle)
        one = yield from application.live_key(session, object_handle, Ckr.OBJECT_HANDLE_INVALID)
        given = table(template)
        # A slot made here takes its nonces from callers, and which ones a session's key has used nobody will know.
        used = may_have_used_nonces(one.row, one.permissions)
        if one.on_token or used or not number(given, Cka.TOKEN):
            raise Refused(Ckr.ACTION_PROHIBITED)
        want = Wanted(
            on_token=True,
            label=octets(given, Cka.LABEL) or one.label,
            id=octets(given, Cka.ID) or one.id,
            permissions=one.permissions,
            algorithms=copied_algorithms(given, one.row, one.algorithms),
            subject=octets(given, Cka.SUBJECT) or one.subject,
        )
        resource = yield from application.resource(one)

        def persisted(slot: str) -> Asking[m.KeyReply]:
            return ask(m.PersistRequest(resource, slot), m.KeyReply)

        made = yield from self._new.make(session, one.row, want, (one.provider,), persisted, (one.kind,))
        return (made[one.kind],)

    def destroy_object(self, handle: int, object_handle: int) -> Answer:
        """C_DestroyObject: a key goes with its slot; the public half of a pair only disappears from view."""
        application = self._application
        session = application.session(handle)
        if application.bury(object_handle):
            return ()
        one = yield from application.live(session, object_handle, Ckr.OBJECT_HANDLE_INVALID)
        if one.on_token and not session.writes:
            raise Refused(Ckr.SESSION_READ_ONLY)
        if not isinstance(one, KeyObject):
            if not isinstance(one, CertificateObject) or one.trusted:
                raise Refused(Ckr.ACTION_PROHIBITED)
            yield from ask(m.CertRemoveRequest(one.origin.certificate), m.Empty)
            application.forget(one.origin)
            application.bury(object_handle)
            return ()
        if one.origin.resource is not None:
            if application.half_left(one):
                application.hide(one)
                return ()
            application.forget(one.origin)
            application.bury(object_handle)
            yield from ask(m.ReleaseRequest(one.origin.resource), m.Empty)
            return ()
        if one.kind is Cko.PUBLIC_KEY and not one.alone:
            application.hide(one)
            return ()
        version = 0 if one.active else one.origin.version
        yield from ask(m.SlotDestroyRequest(one.origin.slot, version), m.Empty)
        application.forget(one.origin)
        application.bury(object_handle)
        return ()

    # Wrapping and deriving

    def wrap_key(self, handle: int, mechanism: Mechanism | None, wrapping: int, key: int, room: int | None) -> Answer:
        """C_WrapKey."""
        application = self._application
        session = self._new.user(handle, MechanismFlag.ENCRYPT | MechanismFlag.WRAP, mechanism)
        by = yield from application.live_key(session, wrapping, Ckr.KEY_HANDLE_INVALID)
        one = yield from application.live_key(session, key, Ckr.KEY_HANDLE_INVALID)
        way = wrapping_way(mechanism or Mechanism(0), by.row)
        require_permitted(by, P.WRAP, way.algorithm)
        if P.EXPORT not in one.permissions or not one.private:
            raise Refused(Ckr.KEY_UNEXTRACTABLE)
        size = way.encrypted_size(_material_size(one.row))
        if room is None or room < size:
            return (Needed(size),)
        params = WrapKeyParams(algorithm=way.algorithm.name, iv=way.nonce, aad=way.aad)
        by_resource = yield from application.resource(by)
        resource = yield from application.resource(one)
        reply = yield from ask(m.WrapRequest(by_resource, resource, params), m.WrapReply)
        return (reply.material,)

    def unwrap_key(
        self,
        handle: int,
        mechanism: Mechanism | None,
        unwrapping: int,
        wrapped: bytes | None,
        template: tuple[Attribute, ...],
    ) -> Answer:
        """C_UnwrapKey."""
        application = self._application
        session = self._new.user(handle, MechanismFlag.DECRYPT | MechanismFlag.UNWRAP, mechanism)
        by = yield from application.live_key(session, unwrapping, Ckr.KEY_HANDLE_INVALID)
        way = wrapping_way(mechanism or Mechanism(0), by.row)
        require_permitted(by, P.UNWRAP, way.algorithm)
        given = table(template)
        kind, row = _unwrapped(given)
        want = wanted(row, {kind: {**given, Cka.EXTRACTABLE: 0}}, application.settings.templates, from_outside=True)
        params = UnwrapKeyParams(
            key_type=row.name,
            permissions=int(want.permissions),
            algorithm=way.algorithm.name,
            iv=way.nonce,
            aad=way.aad,
            format="raw" if row.symmetric else "pkcs8",
        )
        resource = yield from application.resource(by)

        def unwrapped(slot: str) -> Asking[m.KeyReply]:
            return ask(m.UnwrapRequest(resource, wrapped or b"", params, slot, nonce_policy(row, slot)), m.KeyReply)

        made = yield from self._new.make(session, row, want, (by.provider,), unwrapped, (kind,))
        return (made[kind],)

    def derive_key(
        self, handle: int, mechanism: Mechanism | None, base: int, template: tuple[Attribute, ...]
    ) -> Answer:
        """C_DeriveKey: ECDH, raw or through the KDF of ANSI X9.63."""
        return ((yield from self._derived(handle, mechanism, base, template)),)

    def derive_key_2(
        self, handle: int, mechanism: Mechanism | None, base: int, template: tuple[Attribute, ...]
    ) -> Answer:
        """C_DeriveKey of newer clients, who can be told something of the mechanism's parameter."""
        made = yield from self._derived(handle, mechanism, base, template)
        update = NO_UPDATE if mechanism is not None and takes_parameter(2, mechanism.type) else b""
        return (int(Ckr.OK), update, made)

    def _derived(
        self, handle: int, mechanism: Mechanism | None, base: int, template: tuple[Attribute, ...]
    ) -> Asking[int]:
        application = self._application
        session = self._new.user(handle, MechanismFlag.DERIVE, mechanism)
        one = yield from application.live_key(session, base, Ckr.KEY_HANDLE_INVALID)
        if P.DERIVE not in one.permissions or one.kind is not Cko.PRIVATE_KEY:
            raise Refused(Ckr.KEY_FUNCTION_NOT_PERMITTED)
        match mechanism:
            case Mechanism(Ckm.ECDH1_DERIVE, (int(kdf), bytes(shared), bytes(point))):
                pass
            case _:
                raise Refused(Ckr.MECHANISM_PARAM_INVALID)
        if one.row.family is not Family.EC:
            raise Refused(Ckr.KEY_TYPE_INCONSISTENT)
        if kdf != KDF_NULL and kdf not in KDF_OF:
            raise Refused(Ckr.MECHANISM_PARAM_INVALID)
        given = table(template)
        size = number(given, Cka.VALUE_LEN)
        row = secret_type(given, None, (one.row.bits + 7) // 8 if size is None else size)
        want = wanted(row, {Cko.SECRET_KEY: given}, application.settings.templates)
        params = AgreeKeyParams(
            key_type=row.name,
            permissions=int(want.permissions),
            peer_public_key=point_to_spki(one.row, point),
            kdf=None if kdf == KDF_NULL else X963(algorithm=KDF_OF[kdf], shared_info=shared),
        )
        resource = yield from application.resource(one)

        def agreed(slot: str) -> Asking[m.KeyReply]:
            return ask(m.AgreeRequest(resource, params, slot, nonce_policy(row, slot)), m.KeyReply)

        made = yield from self._new.make(session, row, want, (one.provider,), agreed, (Cko.SECRET_KEY,))
        return made[Cko.SECRET_KEY]

    # What these share

    def _generate(self, session: PkcsSession, row: KeyType, templates: dict[Cko, Template]) -> Asking[dict[Cko, int]]:
        want = wanted(row, templates, self._application.settings.templates)
        providers = session.token.makers(row.name)
        if not providers:
            raise Refused(Ckr.TEMPLATE_INCONSISTENT)
        if want.on_token:
            return (yield from self._new.make(session, row, want, providers, None, tuple(templates)))

        def generated(_: str) -> Asking[m.KeyReply]:
            params = GenerateKeyParams(key_type=row.name, permissions=int(want.permissions))
            return ask(m.GenerateRequest(params, "", providers[0], nonce_policy(row)), m.KeyReply)

        return (yield from self._new.make(session, row, want, providers, generated, tuple(templates), generated=True))


_GENERATED_KIND: Final = {0x1080: 0x1F, 0x350: 0x10}
"""CKK_* by CKM_*_KEY_GEN of secret keys."""


def _unwrapped(template: Template) -> tuple[Cko, KeyType]:
    if number(template, Cka.CLASS) != Cko.SECRET_KEY:
        raise Refused(Ckr.TEMPLATE_INCONSISTENT if Cka.CLASS in template else Ckr.TEMPLATE_INCOMPLETE)
    return Cko.SECRET_KEY, secret_type(template, None, number(template, Cka.VALUE_LEN))


def _material_size(row: KeyType) -> int:
    """The most bytes of a key as it is wrapped: the value, or PKCS#8."""
    if row.symmetric:
        return row.bytes
    return (row.bits + 7) // 8 * 5 + 96
