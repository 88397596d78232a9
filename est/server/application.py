"""From a path to an operation of a CA, and from an error to a response; the outermost edge below the sockets."""

from collections.abc import Mapping
from urllib.parse import unquote

import structlog

from est.http.paths import OPERATIONS, WELL_KNOWN
from est.server.messages import Peer, ServerRequest, ServerResponse
from est.server.service import EstService
from hsmbridge.core.errors import STATUS_TABLE, HsmBridgeError, Status

_log = structlog.get_logger(__name__)

_HTTP = {Status.CERTIFICATE_NOT_TRUSTED: 403, Status.NOT_SUPPORTED: 400, Status.INTERNAL: 500}


class EstApplication:
    """Services by label; "" is the one without a label."""

    def __init__(self, services: Mapping[str, EstService]) -> None:
        self._services = dict(services)

    def handle(self, request: ServerRequest, peer: Peer) -> ServerResponse:
        """The response to any request."""
        path = request.target.partition("?")[0]
        if not path.startswith(f"{WELL_KNOWN}/"):
            return _text(404, "EST is elsewhere.")
        label, _, operation = path.removeprefix(f"{WELL_KNOWN}/").rpartition("/")
        service = self._services.get(unquote(label))
        if service is None or operation not in OPERATIONS:
            return _text(404, "There is no such CA or operation.")
        try:
            response = service.handle(operation, request, peer)
        except HsmBridgeError as problem:
            status = _HTTP.get(problem.status, STATUS_TABLE[problem.status].http)
            _log.info("est_refused", operation=operation, label=label, status=status, reason=problem.message)
            return _text(status, problem.message)
        _log.info("est_answered", operation=operation, label=label, status=response.status)
        return response


def _text(status: int, message: str) -> ServerResponse:
    return ServerResponse(status, body=f"{message}\n".encode())
