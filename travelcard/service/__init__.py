"""Asking for one's card: a travel card by number and SMS code, a health code by application (docs/service.md)."""

from travelcard.service.app import application
from travelcard.service.context import Context
from travelcard.service.signed import verify

__all__ = ["Context", "application", "verify"]
