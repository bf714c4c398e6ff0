"""Benchmarks: a fresh process per measurement, the floor and the peers in the same rounds, no time without a checksum.

``python -m benchmarks.stays``, ``.places``, ``.cards``, ``.card``; each takes ``--help``.
"""
