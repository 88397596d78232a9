"""Slots, access and versions: the only way to key material."""
