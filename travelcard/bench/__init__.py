"""Benchmarks: a fresh process per measurement, the floor and the peers in the same rounds, no time without a checksum.

``travelcard bench`` is the small one, ``python -m travelcard.bench.stays`` the whole.
"""

__all__: list[str] = []
