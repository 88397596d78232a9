"""Everything that the dispatcher asks about certificates, trust stores and CRLs, put together."""

from dataclasses import dataclass
from typing import Self

from hsmbridge.keys.slots import NamespacePolicy
from hsmbridge.service.certificate_access import CertificateAccess
from hsmbridge.service.certificates import Certificates
from hsmbridge.service.key_access import KeyAccess
from hsmbridge.service.trust_stores import TrustStores
from hsmbridge.storage.store import Store


@dataclass(frozen=True, slots=True)
class CertificateResources:
    """The operations, and the way to what they are about."""

    access: CertificateAccess
    certificates: Certificates
    trust: TrustStores

    @classmethod
    def over(cls, store: Store, keys: KeyAccess, policy: NamespacePolicy) -> Self:
        """Those of a store; certificates are bound to the slots that `keys` finds."""
        access = CertificateAccess(store.certificates)
        return cls(access, Certificates(store, keys, access, policy), TrustStores(access, policy))
