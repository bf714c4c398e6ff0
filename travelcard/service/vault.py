"""What the service's secret makes: keyed hashes to find a number by, encryption at rest, a key that signs codes."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from travelcard.errors import InputError

__all__ = ["Vault", "fingerprint", "new_token"]


class Vault:
    """Keys derived by HKDF (RFC 5869, SHA-256) from one secret of 64 hexadecimal digits.

    Hashes are HMAC-SHA-256; what is at rest is AES-256-GCM with a random nonce and bound to the place where it stands,
    so that a value moved to another column does not open; signatures are Ed25519 (RFC 8032).
    """

    def __init__(self, secret: str) -> None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", secret):
            raise InputError("the secret of the service must be 64 hexadecimal digits (openssl rand -hex 32)")

        def derived(what: str) -> bytes:
            return HKDF(SHA256(), 32, None, f"travelcard service {what}".encode()).derive(bytes.fromhex(secret))

        self._hashing = derived("hashes")
        self._cipher = AESGCM(derived("at rest"))
        self.signing = Ed25519PrivateKey.from_private_bytes(derived("signatures"))

    @property
    def public(self) -> str:
        """The key that verifies signatures, PEM."""
        return self.signing.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def key(self, kind: str, *parts: str) -> str:
        """A keyed hash of texts: equal for equal ones, and of no use without the secret."""
        text = "\0".join((kind, *parts))
        return hmac.new(self._hashing, text.encode(), hashlib.sha256).hexdigest()

    def seal(self, text: str, about: str) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, text.encode(), about.encode())

    def open(self, sealed: bytes, about: str) -> str:
        """What was sealed; raises `InputError` where it was made with another secret, changed, or moved."""
        try:
            return self._cipher.decrypt(sealed[:12], sealed[12:], about.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise InputError("the database was written with another secret, or was changed by somebody") from error


def new_token() -> str:
    """256 random bits, as text that an address can hold."""
    return secrets.token_urlsafe(32)


def fingerprint(token: str) -> str:
    """What is kept of a random token: a hash from which it cannot be had."""
    return hashlib.sha256(token.encode()).hexdigest()
