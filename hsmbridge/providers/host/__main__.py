"""`python -m hsmbridge.providers.host`: one provider host, started by the supervisor."""

from hsmbridge.providers.host.process import run

run()
