"""Objects on a token: found, listed and removed by CKA_ID.

Finding is what costs: tokens go through their objects one by one (SoftHSM takes 20 ms for 1,000), so callers keep
what they found.
"""

from dataclasses import dataclass

import msgspec
from pkcs11 import Attribute, Object, PrivateKey, PublicKey, SecretKey, Session
from pkcs11.exceptions import ObjectHandleInvalid

from hsmbridge.core.errors import ProviderError, Status
from hsmbridge.core.identifiers import KEY_ID_LENGTH
from hsmbridge.providers.pkcs11.templates import LABEL_PREFIX, Template


@dataclass(slots=True)
class KeyObjects:
    """The objects of one key in one session."""

    private: Object | None = None
    public: Object | None = None
    secret: Object | None = None

    @property
    def usable(self) -> bool:
        """A public half alone is what a crash left of a key."""
        return self.private is not None or self.secret is not None


class Reference(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A key's persistent form.

    Attributes:
        serial: of the token that the key was made on.
        has_public: a public object stands beside the private one.
        run: for an ephemeral key, which run of the provider made it; else empty.
    """

    version: int = 1
    serial: str
    key_id: bytes
    key_type: str
    has_public: bool
    run: bytes = b""


def find_key(session: Session, key_id: bytes) -> KeyObjects:
    """The objects with this CKA_ID, none where there are none.

    Raises:
        ProviderError: PROVIDER_FAILED where two objects of one class have it.
    """
    found = KeyObjects()
    for item in _objects(session, {Attribute.ID: key_id}):
        if isinstance(item, PrivateKey):
            twice, found.private = found.private is not None, item
        elif isinstance(item, PublicKey):
            twice, found.public = found.public is not None, item
        elif isinstance(item, SecretKey):
            twice, found.secret = found.secret is not None, item
        else:
            continue
        if twice:
            raise ProviderError(
                Status.PROVIDER_FAILED,
                "Two objects on the token have the id of this key; an administrator must remove the wrong one.",
            )
    return found


def remove_key(session: Session, key_id: bytes) -> None:
    """Remove every key object of ours with this CKA_ID, the private half first. None is fine."""
    mine = [item for item in _objects(session, {Attribute.ID: key_id}) if _is_ours(item)]
    for item in sorted(mine, key=lambda item: isinstance(item, PublicKey)):
        try:
            item.destroy()
        except ObjectHandleInvalid:
            continue  # somebody was faster


def list_key_ids(session: Session) -> list[bytes]:
    """The CKA_ID of every object on the token that is ours, each once, of half-made pairs too."""
    ids: dict[bytes, None] = {}
    for item in _objects(session, {Attribute.TOKEN: True}):
        if _is_ours(item):
            ids[bytes(item[Attribute.ID])] = None
    return [key_id for key_id in ids if len(key_id) == KEY_ID_LENGTH]


def _objects(session: Session, template: Template) -> list[Object]:
    # The generator keeps the search, and with it the session, until it is exhausted.
    return list(session.get_objects(template))


def _is_ours(item: Object) -> bool:
    if not isinstance(item, PrivateKey | PublicKey | SecretKey):
        return False
    try:
        label: object = item[Attribute.LABEL]
    except UnicodeDecodeError:
        return False
    except ObjectHandleInvalid:
        return False  # removed since it was found
    return isinstance(label, str) and label.startswith(LABEL_PREFIX)
