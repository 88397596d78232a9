"""Whom a client trusts: Explicit and Implicit trust anchors apart, paths to them, first contact, CA roll-over."""
