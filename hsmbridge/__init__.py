"""hsmbridge: a key service over PKCS#11 tokens, TPM 2.0 and software keys.

The daemon holds the keys; applications use them through :mod:`hsmbridge.client` without ever holding one.  This
package root carries the version and nothing else, so that importing it costs nothing.
"""

__version__ = "0.1.0.dev0"
