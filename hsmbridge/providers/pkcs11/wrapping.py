"""Keys wrapped and unwrapped on the token: C_WrapKey and C_UnwrapKey (PKCS#11 v3.2, section 5.18).

Secret keys travel as their value, private ones as PKCS#8. RSA-AES key wrap is put together from its two halves, an
AES key of the token's own under RSAES-OAEP and the wrapped key under that one by AES-KWP, for few tokens have the
mechanism. What comes in is looked at before anybody may use it: a key of another type or size is destroyed again.
"""

from dataclasses import dataclass

from pkcs11 import Attribute, Mechanism, MechanismFlag, Object, ObjectClass, Session, UnwrapMixin, WrapMixin
from pkcs11 import KeyType as Ckk
from pkcs11.constants import DEFAULT
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import Key

from hsmbridge.core.algorithms import Algorithm, Kind, Scheme
from hsmbridge.core.calls import KeyTarget
from hsmbridge.core.errors import DecryptionFailed, HsmBridgeError, KeyUseError, RequestError, Status
from hsmbridge.core.key_types import KeyType
from hsmbridge.providers.pkcs11.encryption import check_fits, check_nonce, cipher_parameter
from hsmbridge.providers.pkcs11.errors import Refusals
from hsmbridge.providers.pkcs11.importing import import_public
from hsmbridge.providers.pkcs11.making import pair_kind, secret_kind
from hsmbridge.providers.pkcs11.mechanisms import MGFS, hash_mechanism, mechanism_of, not_permitted
from hsmbridge.providers.pkcs11.newer_constants import mechanism_by_number
from hsmbridge.providers.pkcs11.objects import KeyObjects
from hsmbridge.providers.pkcs11.parameters import NO_PARAMETER, Parameter, oaep
from hsmbridge.providers.pkcs11.public_halves import USES, computed_public_key
from hsmbridge.providers.pkcs11.public_keys import told_public_key
from hsmbridge.providers.pkcs11.quirks import Quirks
from hsmbridge.providers.pkcs11.templates import (
    Template,
    pair_templates,
    readable_template,
    secret_template,
    temporary_template,
)

_NO_USES = MechanismFlag(0)
_SEMIBLOCK = 8
_WITH_KWP = frozenset({Scheme.KEY_WRAP_PADDED, Scheme.RSA_AES_KEY_WRAP})
_BETWEEN_BITS = 256
_CKM_AES_KEY_WRAP_KWP = 0x210B
_NOT_FOR_PRIVATE_KEYS = (Attribute.ENCRYPT, Attribute.VERIFY, Attribute.WRAP)
_FORMATS = {True: "raw", False: "pkcs8"}


@dataclass(frozen=True, slots=True)
class Wrapping:
    """How one token wraps.

    Attributes:
        quirks: of the token.
        fixed: attributes that make an object unchangeable, as far as the token takes them.
        private_types: key types whose private keys it unwraps so that their public half is known.
        wrapped_points: it wants a peer's point in an OCTET STRING.
    """

    quirks: Quirks
    fixed: Template
    private_types: frozenset[str]
    wrapped_points: bool = False

    def wrap(
        self,
        session: Session,
        under: KeyObjects,
        row: Algorithm,
        under_row: KeyType,
        what: "Wrapped",
        iv: bytes,
        aad: bytes,
    ) -> bytes:
        """The key `what`, encrypted. Raises RequestError, LimitError, KeyUseError for what cannot be."""
        check_nonce(row, iv, aad)
        _check_room(row, under_row, what.row)
        if (
            self.quirks.pads_before_kwp
            and row.scheme in _WITH_KWP
            and what.row.symmetric
            and what.row.bytes % _SEMIBLOCK
        ):
            raise RequestError(
                Status.NOT_SUPPORTED,
                f"The token wraps keys of type {what.row.name} wrongly by {row.name}; use another.",
            )
        key = what.keys.secret or what.keys.private
        if not isinstance(key, Key):
            raise KeyUseError(
                Status.KEY_OPERATION_NOT_PERMITTED,
                "Only the public half of this key is here; there is nothing to wrap.",
            )
        outer = under.secret or under.public
        if row.scheme is not Scheme.RSA_AES_KEY_WRAP:
            return self._wrap(outer, row, key, iv, aad)
        between = session.generate_key(
            Ckk.AES,
            _BETWEEN_BITS,
            capabilities=_NO_USES,
            template={**temporary_template(Attribute.WRAP), Attribute.EXTRACTABLE: True},
        )
        try:
            first = self._wrap(outer, row, between, b"", b"")
            return first + _wrapping(between).wrap_key(key, mechanism=self._kwp())
        finally:
            between.destroy()

    def unwrap(
        self,
        session: Session,
        under: KeyObjects,
        row: Algorithm,
        under_row: KeyType,
        material: "Material",
        target: KeyTarget,
        target_row: KeyType,
    ) -> KeyObjects:
        """The key in `material`. Raises DecryptionFailed whatever is wrong with it."""
        check_nonce(row, material.iv, material.aad)
        inner = under.secret or under.private
        if not isinstance(inner, UnwrapMixin):
            raise not_permitted("unwrap")
        if row.scheme is not Scheme.RSA_AES_KEY_WRAP:
            parameter = self._parameter(row, material.iv, material.aad, 0)
            return self._take(session, inner, self._mechanism(row), parameter, material.wrapped, target, target_row)
        size = under_row.bits // 8
        between = _unwrapped(
            inner,
            ObjectClass.SECRET_KEY,
            Ckk.AES,
            material.wrapped[:size],
            self._mechanism(row),
            self._parameter(row, b"", b"", 0),
            temporary_template(Attribute.UNWRAP),
            self.quirks.refusals,
        )
        try:
            # Of another size than AES has, it unwraps nothing; which of these sizes is the sender's affair.
            if not isinstance(between, UnwrapMixin):
                raise DecryptionFailed(Status.DECRYPTION_FAILED)
            return self._take(session, between, self._kwp(), NO_PARAMETER, material.wrapped[size:], target, target_row)
        finally:
            between.destroy()

    def check_form(self, row: KeyType, format_: str) -> None:
        """Raises RequestError for a form or a type that is not unwrapped."""
        if not row.symmetric and row.name not in self.private_types:
            raise RequestError(
                Status.NOT_SUPPORTED,
                f"The token cannot unwrap keys of type {row.name}, or does not tell their public half then; import it.",
            )
        if format_ != _FORMATS[row.symmetric]:
            raise RequestError(
                Status.INVALID_ARGUMENT, f'A key of type {row.name} is unwrapped as "{_FORMATS[row.symmetric]}".'
            )

    # --- inside ----------------------------------------------------------------------------------------------------

    def _wrap(self, outer: Object | None, row: Algorithm, key: Key, iv: bytes, aad: bytes) -> bytes:
        parameter = self._parameter(row, iv, aad, 0)
        return _wrapping(outer).wrap_key(key, mechanism=self._mechanism(row), mechanism_param=parameter.given)

    def _take(
        self,
        session: Session,
        inner: UnwrapMixin,
        mechanism: Mechanism,
        parameter: Parameter,
        material: bytes,
        target: KeyTarget,
        row: KeyType,
    ) -> KeyObjects:
        if row.symmetric:
            return KeyObjects(secret=self._take_secret(inner, mechanism, parameter, material, target, row))
        kind, _ = pair_kind(row)
        _, private_template = pair_templates(target, self.fixed)

        def unwrapped(template: Template) -> Key:
            for_private = {**template, **dict.fromkeys(_NOT_FOR_PRIVATE_KEYS, DEFAULT)}
            refusals = self.quirks.refusals
            return _unwrapped(
                inner, ObjectClass.PRIVATE_KEY, kind, material, mechanism, parameter, for_private, refusals
            )

        made = unwrapped(private_template)
        try:
            info = told_public_key(row, made)
            if info is None and row.family in USES:
                trial = unwrapped(temporary_template(*USES[row.family]))
                try:
                    info = computed_public_key(row, trial, wrapped_points=self.wrapped_points)
                finally:
                    trial.destroy()
            if info is None:
                raise DecryptionFailed(Status.DECRYPTION_FAILED)
            return KeyObjects(private=made, public=import_public(session, row, target, info, self.fixed))
        except (PKCS11Error, HsmBridgeError):
            made.destroy()
            raise

    def _take_secret(
        self,
        inner: UnwrapMixin,
        mechanism: Mechanism,
        parameter: Parameter,
        material: bytes,
        target: KeyTarget,
        row: KeyType,
    ) -> Key:
        kind, _ = secret_kind(row)

        def unwrapped(template: Template) -> Key:
            refusals = self.quirks.refusals
            return _unwrapped(inner, ObjectClass.SECRET_KEY, kind, material, mechanism, parameter, template, refusals)

        if row.family in self.quirks.size_untold:
            readable = unwrapped(readable_template())
            try:
                size = len(bytes(readable[Attribute.VALUE]))
            finally:
                readable.destroy()
            if size != row.bytes:
                raise DecryptionFailed(Status.DECRYPTION_FAILED)
            return unwrapped(secret_template(target, self.fixed))
        made = unwrapped(secret_template(target, self.fixed))
        if self._size(made) != row.bytes:
            made.destroy()
            raise DecryptionFailed(Status.DECRYPTION_FAILED)
        return made

    @staticmethod
    def _size(made: Key) -> int:
        try:
            return int(made[Attribute.VALUE_LEN])
        except PKCS11Error:
            return 0

    def _mechanism(self, row: Algorithm) -> Mechanism:
        if row.scheme is Scheme.RSA_AES_KEY_WRAP:
            return Mechanism.RSA_PKCS_OAEP
        mechanism = mechanism_of(row)
        if mechanism is None:
            raise RequestError(Status.NOT_SUPPORTED, f"PKCS#11 has no mechanism for {row.name}.")
        return mechanism_by_number(self.quirks.renumbered.get(int(mechanism), int(mechanism)))

    def _kwp(self) -> Mechanism:
        return mechanism_by_number(self.quirks.renumbered.get(_CKM_AES_KEY_WRAP_KWP, _CKM_AES_KEY_WRAP_KWP))

    @staticmethod
    def _parameter(row: Algorithm, iv: bytes, aad: bytes, size: int) -> Parameter:
        if row.scheme is Scheme.RSA_AES_KEY_WRAP:
            return oaep(hash_mechanism(row), MGFS[row.hash])
        if row.kind is Kind.KEY_WRAP:
            return NO_PARAMETER
        return cipher_parameter(row, iv, aad, size)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A key that is to be wrapped."""

    keys: KeyObjects
    row: KeyType


@dataclass(frozen=True, slots=True)
class Material:
    """What a wrapped key is unwrapped from."""

    wrapped: bytes
    iv: bytes
    aad: bytes


def _unwrapped(
    inner: UnwrapMixin,
    object_class: ObjectClass,
    kind: Ckk,
    wrapped: bytes,
    mechanism: Mechanism,
    parameter: Parameter,
    template: Template,
    refusals: Refusals,
) -> Key:
    try:
        return inner.unwrap_key(
            object_class,
            kind,
            wrapped,
            mechanism=mechanism,
            mechanism_param=parameter.given,
            capabilities=_NO_USES,
            template=template,
        )
    except PKCS11Error as failure:
        if refusals.wrapping(failure):
            raise DecryptionFailed(Status.DECRYPTION_FAILED) from None
        raise


def _check_room(row: Algorithm, under_row: KeyType, what: KeyType) -> None:
    if row.scheme is Scheme.KEY_WRAP and (not what.symmetric or what.bytes % _SEMIBLOCK):
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"{row.name} wraps secret keys of whole 8 bytes, and no key of type {what.name}; KWP wraps any.",
        )
    if row.scheme is Scheme.RSAES_OAEP:
        if not what.symmetric:
            raise RequestError(
                Status.INVALID_ARGUMENT, f"{row.name} has no room for a private key; RSA-AES key wrap takes any."
            )
        check_fits(row, under_row, what.bytes)


def _wrapping(key: Object | None) -> WrapMixin:
    if not isinstance(key, WrapMixin):
        raise not_permitted("wrap")
    return key
