"""The EST client: RFC 7030 with RFC 8951 and RFC 9908, over keys that may be anywhere."""

from est.client.address import EstAddress
from est.client.configuration import ClientConfiguration
from est.client.est_client import EstClient
from est.client.results import Enrolled, Pending, ServerMadeKey

__all__ = ["ClientConfiguration", "Enrolled", "EstAddress", "EstClient", "Pending", "ServerMadeKey"]
