"""The parent of all: starts workers and provider hosts, replaces what dies, and holds what they share.

It opens no key, serves no client and knows no provider's protocol; it can be killed, and what it started goes on
(hosts) or ends in order (workers) without it. `Supervisor` is the whole of it, `inherit` its other end in a worker.
"""

from hsmbridge.supervisor.inheritance import Inheritance, inherit
from hsmbridge.supervisor.pins import PinSource
from hsmbridge.supervisor.settings import FrontEndSocket, SupervisedProvider, SupervisorSettings
from hsmbridge.supervisor.supervisor import Supervisor

__all__ = [
    "FrontEndSocket",
    "Inheritance",
    "PinSource",
    "SupervisedProvider",
    "Supervisor",
    "SupervisorSettings",
    "inherit",
]
