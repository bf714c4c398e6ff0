"""What a checkpoint scans: a short-lived token that is signed, and verified without asking anybody (RFC 7519, 8037)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import jwt
import segno
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from travelcard.errors import InputError

__all__ = ["LIFE", "issue", "svg", "verify"]

LIFE = timedelta(seconds=90)
ISSUER = "travelcard"


def issue(key: Ed25519PrivateKey, kind: str, claims: Mapping[str, Any], now: datetime) -> str:
    """A token of a kind (``card`` or ``health``) that is good for `LIFE`."""
    times = {"iss": ISSUER, "aud": kind, "iat": int(now.timestamp()), "exp": int((now + LIFE).timestamp())}
    return jwt.encode({**claims, **times}, key, algorithm="EdDSA")


def verify(token: str, public: str, kind: str, *, now: datetime | None = None) -> dict[str, Any]:
    """The claims of a token that the key's owner signed and that is still good; needs no connection.

    Raises
    ------
    InputError
        It is forged, of another kind, from the future, or has expired.
    """
    try:
        claims: dict[str, Any] = jwt.decode(
            token, public, algorithms=["EdDSA"], audience=kind, issuer=ISSUER,
            options={"require": ["exp", "iat", "aud", "iss"], "verify_exp": False, "verify_iat": False},
        )  # fmt: skip
    except (jwt.InvalidTokenError, jwt.InvalidKeyError, ValueError) as error:
        raise InputError(f"not valid: it was not signed with this key, or is no {kind} code") from error
    at = (now or datetime.now(UTC)).timestamp()
    if not claims["iat"] - 30 <= at < claims["exp"]:  # clocks differ
        raise InputError("not valid: it has expired; ask for a fresh one")
    return claims


def svg(text: str, colour: str) -> str:
    """A QR code (ISO/IEC 18004) of a text, as SVG to stand in a page; dark on white, so that it can be scanned."""
    out = BytesIO()
    segno.make(text, error="l", micro=False).save(
        out, kind="svg", dark=colour, light="#fff", border=4, xmldecl=False, svgns=True, omitsize=True, nl=False
    )
    return out.getvalue().decode()
