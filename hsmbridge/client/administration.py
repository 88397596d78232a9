"""Slots: making, listing, showing, rotating, revoking, destroying, and who may use them."""

from collections.abc import Iterable, Mapping

from hsmbridge.client.calls import Buffer, octets
from hsmbridge.client.deadline import UNSET, Timeout
from hsmbridge.client.key_making import KeyMaking
from hsmbridge.core import messages as m
from hsmbridge.core.permissions import KeyOperationPermission
from hsmbridge.core.policy import NoncePolicy, Role


class SlotAdministration(KeyMaking):
    """The calls that administer slots. Those that change one need the role administer there (AccessError)."""

    def create_slot(
        self,
        name: str,
        key_type: str,
        permissions: KeyOperationPermission,
        *,
        providers: Iterable[str],
        algorithms: Iterable[str] = (),
        nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
        fallback: bool = False,
        sign_and_decrypt: bool = False,
        derive_to_software: bool = False,
        imported_wrapping_key: bool = False,
        empty: bool = False,
        timeout: Timeout = UNSET,
    ) -> m.SlotInfo:
        """Make a slot and, unless `empty`, its first key.

        The arguments are those of `hsmbridge.core.messages.SlotCreateRequest`. Raises ResourceError
        (RESOURCE_EXISTS), RequestError (INVALID_PERMISSIONS, UNKNOWN_KEY_TYPE), AccessError.
        """
        request = m.SlotCreateRequest(
            name=name,
            key_type=key_type,
            providers=tuple(providers),
            permissions=int(permissions),
            algorithms=tuple(algorithms),
            nonce_policy=nonce_policy,
            fallback=fallback,
            sign_and_decrypt=sign_and_decrypt,
            derive_to_software=derive_to_software,
            imported_wrapping_key=imported_wrapping_key,
            empty=empty,
        )
        return self._perform(m.SlotInfo, lambda: request, timeout=timeout)

    def adopt_slot(
        self,
        name: str,
        *,
        provider: str,
        uri: str = "",
        material: Buffer = b"",
        permissions: KeyOperationPermission = KeyOperationPermission.NONE,
        algorithms: Iterable[str] = (),
        nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
        sign_and_decrypt: bool = False,
        derive_to_software: bool = False,
        imported_wrapping_key: bool = False,
        timeout: Timeout = UNSET,
    ) -> m.SlotAdoptReply:
        """Make a slot of a key that a token holds already; destroying the slot destroys that key.

        Args:
            uri: where the key is: a PKCS#11 URI, a persistent TPM handle. Only for operators.
            material: instead, the key as only its TPM opens it: a TSS2 PRIVATE KEY.
            permissions: the most that the slot allows; NONE is all that the token allows, except EXPORT.

        The other arguments are those of `create_slot`. Raises ProviderError (KEY_MATERIAL_MISSING, WRONG_TOKEN),
        RequestError (NOT_SUPPORTED, INVALID_PERMISSIONS), ResourceError (RESOURCE_EXISTS), AccessError.
        """
        request = m.SlotAdoptRequest(
            name=name,
            provider=provider,
            uri=uri,
            material=octets(material),
            permissions=int(permissions),
            algorithms=tuple(algorithms),
            nonce_policy=nonce_policy,
            sign_and_decrypt=sign_and_decrypt,
            derive_to_software=derive_to_software,
            imported_wrapping_key=imported_wrapping_key,
        )
        return self._perform(m.SlotAdoptReply, lambda: request, timeout=timeout)

    def list_slots(self, namespace: str = "", *, timeout: Timeout = UNSET) -> list[m.SlotInfo]:
        """The slots that the caller may see, of one namespace or, with "", of all."""
        return self._perform(m.SlotListReply, lambda: m.SlotListRequest(namespace), timeout=timeout).slots

    def show_slot(self, name: str, *, probe: bool = False, timeout: Timeout = UNSET) -> m.SlotInfo:
        """One slot. Raises ResourceError (RESOURCE_NOT_FOUND) where it is not there or hidden.

        `probe` has each version loaded at its provider; `unavailable` then says of one that is missing there.
        """
        return self._perform(m.SlotInfo, lambda: m.SlotShowRequest(name, probe), timeout=timeout)

    def rotate(self, name: str, *, timeout: Timeout = UNSET) -> m.SlotInfo:
        """Generate a new key version and make it the active one; needs GENERATE on the slot."""
        return self._perform(m.SlotInfo, lambda: m.SlotRotateRequest(name), timeout=timeout)

    def revoke(self, name: str, version: int = 0, *, timeout: Timeout = UNSET) -> m.SlotInfo:
        """End the use of a key version; 0 is the active one."""
        return self._perform(m.SlotInfo, lambda: m.SlotRevokeRequest(name, version), timeout=timeout)

    def destroy(self, name: str, version: int = 0, *, timeout: Timeout = UNSET) -> None:
        """Destroy a key version, or with 0 the slot and all its versions. There is no way back."""
        self._perform(m.Empty, lambda: m.SlotDestroyRequest(name, version), timeout=timeout)

    def grant(
        self,
        name: str,
        principal: str,
        permissions: KeyOperationPermission,
        *,
        role: Role = Role.USE,
        timeout: Timeout = UNSET,
    ) -> m.SlotInfo:
        """Let a principal, such as "uid:1000", use the slot within `permissions`, or administer it as well."""
        request = m.SlotGrantRequest(name, principal, role, int(permissions))
        return self._perform(m.SlotInfo, lambda: request, timeout=timeout)

    def ungrant(self, name: str, principal: str, *, timeout: Timeout = UNSET) -> m.SlotInfo:
        """Take a principal off the slot's access list."""
        return self._perform(m.SlotInfo, lambda: m.SlotUngrantRequest(name, principal), timeout=timeout)

    def set_slot_attributes(
        self, name: str, attributes: Mapping[int, bytes], *, timeout: Timeout = UNSET
    ) -> m.SlotInfo:
        """Keep values with a slot by which programs know it, by the number of the PKCS#11 attribute, such as CKA_ID.

        They decide nothing. Those that are not named stay; b"" takes one away. Raises RequestError (INVALID_ARGUMENT).
        """
        request = m.SlotAttributesRequest(name, dict(attributes))
        return self._perform(m.SlotInfo, lambda: request, timeout=timeout)
