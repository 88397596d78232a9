"""TLS of Python's ssl module with private keys that stay in the service.

    from hsmbridge.client.pyca import private_key
    from hsmbridge.client.tls import load_slot_key

    context = ssl.create_default_context()
    load_slot_key(context, private_key(stack, "web"), chain)

An OpenSSL 3 provider, written with ctypes, stands between libssl and the client. Whoever does not import this package
has nothing of it. Not for the process that is the daemon: a handshake waits for the daemon's answer.
"""

from hsmbridge.client.tls.context import SlotKeyInUse, load_slot_key

__all__ = ["SlotKeyInUse", "load_slot_key"]
