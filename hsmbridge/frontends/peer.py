"""Who a client is: the principal of a connection."""

import socket

from hsmbridge.core.identifiers import uid_principal
from hsmbridge.core.peer import peer_credentials


def principal_of(peer: socket.socket) -> str:
    """The principal of a connection's other side, by its uid."""
    return uid_principal(peer_credentials(peer).uid)
