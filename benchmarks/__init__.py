"""What is measured beside `travelcard.bench.stays`, by the same means, and what is made of all measurements.

``python -m benchmarks.cards``, ``.card``, ``.places``, ``.profile`` measure, ``.plots`` draws; each takes ``--help``.
"""
