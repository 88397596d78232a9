"""Keys in the formats of other programs: SubjectPublicKeyInfo, PKCS#8, JWK, COSE_Key, OpenSSH.

Bytes in, bytes out: no file is read, no daemon asked. Public keys are written and read; private ones are read only,
for nothing here ever writes one. `given.read_key`, `public.write_public_key` and `jwk.jwk_set` are what to use; the
modules are imported one by one, because most of them bring cryptography along.
"""
