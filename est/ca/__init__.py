"""A CA for labs and small sites: profiles as data, a key that may be in a slot, a record of every certificate."""
