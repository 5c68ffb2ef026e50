"""Private keys that an operator enters, checked before anything is signed with them."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from reclaim.common.errors import Invalid


def check_rsa_key(pem: str) -> None:
    """Refuse what is no RSA key in PEM, or one that needs a passphrase; Invalid for the field `private_key`."""
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Invalid(
            "Enter the private key as PEM text, without a passphrase (-----BEGIN PRIVATE KEY-----).",
            field="private_key",
        ) from None
    if not isinstance(key, RSAPrivateKey):
        raise Invalid("The key must be an RSA key; make one of 2048 bits or more.", field="private_key")
