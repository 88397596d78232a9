"""The paths of EST (RFC 7030 section 3.2.2)."""

OPERATIONS = ("cacerts", "simpleenroll", "simplereenroll", "fullcmc", "serverkeygen", "csrattrs")
WELL_KNOWN = "/.well-known/est"
