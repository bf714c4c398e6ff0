"""Keyed pseudonyms: what a store holds in the place of numbers, if it is made with a key (docs/privacy.md)."""

from __future__ import annotations

import base64
import re
from typing import Any

import numpy as np
import pyarrow as pa

from travelcard.errors import InputError, MissingExtra

__all__ = ["Pseudonyms"]

_DIGITS = 63  # binary ones: every subscriber that is an integer


class Pseudonyms:
    """A key, and what it makes of subscribers: another id of the same type for each, which it alone leads back from.

    Integers go through FF1 (NIST SP 800-38G, AES-256) on 63 binary digits, which is a permutation of them; texts
    through AES-SIV (RFC 5297, 256-bit), base64url, so that no two share a pseudonym. Its keys and `id`, which is no
    secret, are derived from the key by HKDF (RFC 5869, SHA-256).

    Parameters
    ----------
    key
        64 hexadecimal digits, from a source of randomness: ``openssl rand -hex 32``.

    Raises
    ------
    InputError
        The key is no key. It is not repeated.
    MissingExtra
        cryptography is not installed.

    Examples
    --------
    >>> import pyarrow as pa, travelcard as tc
    >>> key = tc.Pseudonyms("00" * 32)
    >>> key.of(pa.array([13800001234]))[0]
    <pyarrow.Int64Scalar: 2954167846018373011>
    >>> key.back(key.of(pa.array(["a number"]))).to_pylist()
    ['a number']
    """

    def __init__(self, key: str) -> None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", key):
            raise InputError("the key of the pseudonyms must be 64 hexadecimal digits (openssl rand -hex 32)")
        try:
            from cryptography.exceptions import InvalidTag  # noqa: PLC0415  an extra
            from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415
            from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtra("pseudonyms need cryptography: pip install 'travelcard[pseudonyms]'") from error

        def derived(what: str, length: int) -> bytes:
            return HKDF(SHA256(), length, None, f"travelcard {what}".encode()).derive(bytes.fromhex(key))

        self._given = key
        self.id = derived("id", 8).hex()
        self._integers = derived("integers", 32)
        self._texts = AESSIV(derived("texts", 64))
        self._forged = InvalidTag

    def __repr__(self) -> str:
        return f"Pseudonyms({self.id})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Pseudonyms, (self._given,)

    def of(self, ids: pa.Array) -> pa.Array:
        """The pseudonyms of subscribers, int64 or string, in their order."""
        if pa.types.is_integer(ids.type):
            return pa.array(ff1(self._integers, _words(ids), 2, _DIGITS).view(np.int64))
        return pa.array([_text(self._texts.encrypt(one.encode(), None)) for one in ids.to_pylist()], pa.string())

    def back(self, ids: pa.Array) -> pa.Array:
        """The subscribers of pseudonyms; raises `InputError` for a text that this key has not made."""
        if pa.types.is_integer(ids.type):
            return pa.array(ff1(self._integers, _words(ids), 2, _DIGITS, back=True).view(np.int64))
        try:
            made = [self._texts.decrypt(_bytes(one), None).decode() for one in ids.to_pylist()]
        except (self._forged, ValueError) as error:
            raise InputError(f"pseudonyms are not of the key {self.id}") from error
        return pa.array(made, pa.string())


def ff1(key: bytes, numbers: np.ndarray, radix: int, digits: int, *, back: bool = False) -> np.ndarray:
    """FF1 of numerals that are read as numbers (uint64), with no tweak: NIST SP 800-38G, algorithms 7 and 8.

    The AES of all numbers is computed at once in each of its ten rounds, which is what a library for one at a time
    does not do. Half a numeral must fit seven bytes.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415  an extra

    def aes(data: Any) -> np.ndarray:
        return np.frombuffer(Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(data), ">u8").reshape(-1, 2)

    u, v = digits // 2, digits - digits // 2
    size = -(-(radix**v - 1).bit_length() // 8)  # b of the standard; d, of which the sum is taken, is 8 then
    if not 1 <= size <= 7 or -(-size // 4) != 1:
        raise ValueError(f"{digits} digits of radix {radix} are too many")
    head = bytes([1, 2, 1, *radix.to_bytes(3, "big"), 10, u % 256, *digits.to_bytes(4, "big"), 0, 0, 0, 0])
    ((high, low),) = aes(head).tolist()
    a, b = np.divmod(numbers, np.uint64(radix**v))
    blocks = np.empty((len(numbers), 2), ">u8")
    blocks[:, 0] = high
    for i in reversed(range(10)) if back else range(10):
        modulus = np.uint64(radix ** (v if i % 2 else u))
        blocks[:, 1] = (a if back else b) ^ np.uint64(low ^ i << 8 * size)
        y = aes(blocks.view(np.uint8).reshape(-1).data)[:, 0].astype(np.uint64) % modulus
        a, b = ((b + modulus - y) % modulus, a) if back else (b, (a + y) % modulus)
    return np.asarray(a * np.uint64(radix**v) + b)


def _words(ids: pa.Array) -> np.ndarray:
    return np.asarray(ids.to_numpy(zero_copy_only=False)).view(np.uint64)


def _text(made: bytes) -> str:
    return base64.urlsafe_b64encode(made).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), "-_", validate=True)
