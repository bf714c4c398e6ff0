"""A synthetic country: its network, its people and a carrier's pings of them, with the truth beside it (DESIGN 11).

Everything is a pure function of (seed, subscriber, day, counter) through splitmix64: nothing is remembered from one
ping to the next, so any slice of any day is written alone, in bounded memory, and gives the same rows on any number
of threads. Every row that a run must reject is labelled with its reason as it is written.

No real person, number or cell is in it. Subscribers are 19900000000 + i, a run of numbers that the synthetic country
uses for nobody, or hexadecimal pseudonyms; cells have invented ids; populations are drawn (see `network`).
"""

from .cells import Country, country, network
from .files import demo, write
from .persons import FIRST_SUBSCRIBER, KINDS, people

__all__ = ["FIRST_SUBSCRIBER", "KINDS", "Country", "country", "demo", "network", "people", "write"]
