"""Pings by position: the place of each point by `places.locate`, and by shapely's STRtree.

``python -m benchmarks.places --points 1e6``. Points lie anywhere in China's bounding box, or round its places; the
floor makes them and asks nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from travelcard.bench.measure import Found, Row, asked, cores, measured, opened, python, record, report, right

KINDS = ("uniform", "cities")
FINDERS = ("floor", "travelcard", "shapely", "travelcard snap")
BLOCK = 1 << 18  # rows, as many as the nightly run decides at a time


def _points(kind: str, n: int) -> tuple[Any, Any]:
    """Latitudes and longitudes, the same ones every time."""
    import numpy as np
    import shapely

    from travelcard.places import china

    random = np.random.default_rng(1)
    polygons = china().polygons
    if kind == "uniform":
        west, south, east, north = shapely.total_bounds(polygons)
        return random.uniform(south, north, n), random.uniform(west, east, n)
    within = shapely.get_coordinates(shapely.point_on_surface(polygons))[random.integers(0, len(polygons), n)]
    return within[:, 1] + random.normal(0, 0.2, n), within[:, 0] + random.normal(0, 0.2, n)


def _finder(name: str) -> Any:
    """(lat, lon) to indices of places, the smaller code first where polygons overlap, -1 outside all."""
    import numpy as np
    import shapely

    from travelcard.places import china

    places = china()
    if name == "floor":
        return lambda lat, lon: np.zeros(len(lat), np.int32)
    if name.startswith("travelcard"):
        snap = {} if name.endswith("snap") else {"snap": 0.0}
        return lambda lat, lon: places.locate(lat, lon, **snap)
    polygons = places.polygons
    shapely.prepare(polygons)
    tree = shapely.STRtree(polygons)

    def find(lat: Any, lon: Any) -> Any:
        point, place = tree.query(shapely.points(lon, lat), predicate="covered_by")
        out = np.full(len(lat), len(polygons), np.int32)
        np.minimum.at(out, point, place)
        return np.where(out == len(polygons), -1, out)

    return find


def child(name: str, kind: str, n: int) -> None:
    """Print the seconds of the search alone, on every processor, and the checksum of the codes in their order."""
    import numpy as np
    import pyarrow as pa

    from travelcard.bench.check import checksum
    from travelcard.places import china

    lat, lon = _points(kind, n)
    find = _finder(name)
    find(lat[:100], lon[:100])  # compiled code is loaded, an index is built
    began, before = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(cores()) as pool:
        blocks = range(0, n, BLOCK)
        found = np.concatenate(list(pool.map(lambda a: find(lat[a : a + BLOCK], lon[a : a + BLOCK]), blocks)))
    took = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - before}
    codes = pa.array([*china().codes, "none"]).take(pa.array(np.where(found < 0, len(china().codes), found)))
    digest = f"{checksum(pa.table({'code': codes, 'row': np.arange(n)})):016x}"
    print(json.dumps({"took": took, "found": int((found >= 0).sum()), "checksum": digest}))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.places", description=__doc__)
    parser.add_argument("--points", type=float, default=1e6)
    options = asked(parser, arguments)
    sitting, n, agreed = opened(), int(options.points), True
    for kind in KINDS:
        rows: list[Row] = []
        for run in range(1, options.runs + 1):
            floor = 0.0
            for name in FINDERS:
                t = measured(python("benchmarks.places", "--child", name, kind, n))
                said = json.loads(t.said)
                floor = floor or t.seconds
                got = None if name == "floor" else Found(said["found"], said["checksum"])
                alone = t._replace(**said["took"])
                rows += [
                    Row(what, f"places {kind}", n, run, took, floor, got)
                    for what, took in ((name, t), (f"{name}, search", alone))
                ]
        true = next(row.found for row in rows if row.what == "travelcard")
        print(f"\n{n:,} points, {kind}, {options.runs} rounds; a search is timed within its process")
        # with snap there is more to find, and no peer: nothing to compare with
        more = [row for row in rows if row.what.startswith("travelcard snap")]
        less = [row for row in rows if row not in more]
        agreed &= report(less, noun="found", true=true)
        report(more, noun="found")
        record(options.csv, [row for row in less if right(row, true)] + more, sitting)
    return 0 if agreed else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        sys.exit(main())
