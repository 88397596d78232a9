"""est: certificates over EST (RFC 7030), built on hsmbridge's public client.

It imports :mod:`hsmbridge.client` and :mod:`hsmbridge.core` and nothing else of hsmbridge.
"""
