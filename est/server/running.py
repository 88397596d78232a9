"""A CA in a folder as a running server."""

from est.ca.site import CaSite
from est.server.application import EstApplication
from est.server.authentication import Authenticator
from est.server.listener import Listener, server_context
from est.server.service import EstService, ServiceSettings


def listener_for(site: CaSite, host: str = "", port: int | None = None) -> Listener:
    """A listener that serves every profile of the site under its label; not started yet."""
    authenticator = Authenticator(site.users, site.client_anchors, digest=site.digest)
    services = {
        label: EstService(
            site.authority,
            authenticator,
            ServiceSettings(profile, wrap=site.wrap, shared_keys=site.shared_keys),
        )
        for label, profile in site.profiles.items()
    }
    anchors = (*site.authority.issuer.chain, *site.client_anchors)
    context = server_context(site.server_key, site.server_chain, anchors)
    return Listener(EstApplication(services).handle, context, host or site.host, site.port if port is None else port)
