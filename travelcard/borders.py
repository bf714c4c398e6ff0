"""The borders of many polygons, laid in a grid of longitude and latitude: the compiled half of `places`.

A grid box that no edge touches has one answer for all its points, written into the box: a polygon, none, or none within
reach either, so that a point at sea looks for no coast. A box that an edge touches holds its edges and the few polygons
that may cover a point of it; these are decided by counting how many of a polygon's edges a ray along the grid row
crosses. The count is exact or not given: a point so near an edge that the rounding of a double could matter is left to
GEOS. Importing this module imports Numba, so `places` does it late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from travelcard.compiled import compiled

__all__ = ["Borders", "covering"]

MAX_BOXES = 8_000_000  # 32 MB; for the prefectures of China a box is then 0.02 degrees, and 3 % of them hold an edge
BOXES_PER_EDGE = 40
MIN_SIZE = 0.005  # degrees: smaller boxes make the search for a neighbour within 5 km visit too many of them
MARGIN = 1e-9  # degrees, 0.1 mm: edges are drawn this much thicker, so that no rounding leaves a box out
REACH = 5000.0  # metres: a box farther than this from every edge is marked; the default snap of `places`
FAR = -2  # such a box; -1 is another one that no polygon covers, and -3 - k the k-th whose points are undecided
TIE = 1e-5  # metres: two distances nearer than this are the same one, computed from the other end of an edge

_RAD = np.pi / 180.0
_A = 6378137.0  # WGS 84
_E2 = 6.69437999014e-3


@compiled
def _metric(lat: float) -> tuple[float, float]:
    """Metres per degree of latitude and of longitude at `lat`: the radii of curvature of WGS 84."""
    sine = np.sin(lat * _RAD)
    w = 1.0 - _E2 * sine * sine
    n = _A / np.sqrt(w)
    return n * (1.0 - _E2) / w * _RAD, n * np.cos(lat * _RAD) * _RAD


@compiled
def _near(lat, lon, ax, ay, bx, by, ky, kx, limit):
    """Metres from a point to an edge (straight in degrees); the metric is taken at the latitude half way.

    Within 1 mm of the geodesic distance at 5 km and 0.2 m at 35 km. Beyond `limit` any larger number may come back.
    """
    qx, qy, d = ax, ay, 0.0
    for turn in range(4):
        ux, uy = (bx - ax) * kx, (by - ay) * ky
        s = ux * ux + uy * uy
        t = ((lon - ax) * kx * ux + (lat - ay) * ky * uy) / s if s > 0.0 else 0.0
        if t <= 0.0:
            qx, qy = ax, ay
        elif t >= 1.0:
            qx, qy = bx, by  # the vertex itself: neighbours that share it are then equally far, to the bit
        else:
            qx, qy = ax + t * (bx - ax), ay + t * (by - ay)
        if turn == 0:
            d = np.hypot((lon - qx) * kx, (lat - qy) * ky)
            if d > 1.05 * limit + 1.0:
                return d
        ky, kx = _metric(0.5 * (lat + qy))
        d = np.hypot((lon - qx) * kx, (lat - qy) * ky)
    return d


@compiled(inline="always")
def _covers(x, y, start, stop, ends):
    """1 if the polygon of this slab covers the point, 0 if not, -1 if rounding could matter."""
    inside = 0
    for k in range(start, stop):
        ax, ay, bx, by = ends[k, 0], ends[k, 1], ends[k, 2], ends[k, 3]
        if (ax == x and ay == y) or (bx == x and by == y):
            return 1
        if (ay > y) != (by > y):
            left, right = (bx - ax) * (y - ay), (x - ax) * (by - ay)
            # Shewchuk 1997, ccwerrboundA = (3 + 16 eps) eps = 3.33e-16: beyond it the sign is certain
            if abs(left - right) <= 3.4e-16 * (abs(left) + abs(right)):
                return -1
            if (left > right) == (by > ay):
                inside = 1 - inside
        elif ay == y and by == y and min(ax, bx) <= x <= max(ax, bx):
            return 1
    return inside


@compiled
def _draw(ends, lat0, lon0, size, cols, boxes, edges):
    """Every (box, edge) that meet, in the order of the edges; only counts them when `boxes` is empty."""
    n = 0
    for e in range(len(ends)):
        ax, ay, bx, by = ends[e, 0], ends[e, 1], ends[e, 2], ends[e, 3]
        low, high = min(ay, by), max(ay, by)
        first, last = int((low - MARGIN - lat0) / size), int((high + MARGIN - lat0) / size)
        for r in range(first, last + 1):
            x0, x1 = min(ax, bx), max(ax, bx)
            if first != last and high > low:  # the part of the edge in this row
                t0 = (max(low, lat0 + r * size - MARGIN) - ay) / (by - ay)
                t1 = (min(high, lat0 + (r + 1) * size + MARGIN) - ay) / (by - ay)
                p, q = ax + t0 * (bx - ax), ax + t1 * (bx - ax)
                x0, x1 = max(x0, min(p, q)), min(x1, max(p, q))
            for c in range(int((x0 - MARGIN - lon0) / size), int((x1 + MARGIN - lon0) / size) + 1):
                if len(boxes):
                    boxes[n], edges[n] = r * cols + c, e
                n += 1
    return n


@compiled
def _label(
    box, cols, lat0, lon0, size, row_start, slab_owner, slab_reach, slab_start, slab_ends, edge_start, edge_owner, found
):
    """Write the answer of every box that no edge meets; list the polygons that may cover a point of the others.

    `box` holds -3 - k for the k-th box with edges and is -1 elsewhere. Boxes wholly inside several polygons are
    undecided ones without an edge. `found` is filled with (undecided, polygon, slab) unless it is empty.
    """
    n, undecided = 0, len(edge_start) - 1
    for r in range(len(row_start) - 1):
        y = lat0 + (r + 0.5) * size
        run = -1  # the answer of the box before, when no edge met it
        started = False
        for c in range(cols):
            k = -3 - box[r * cols + c]
            if k < 0 and started:
                box[r * cols + c] = run
                continue
            started = k < 0
            x = lon0 + (c + 0.5) * size
            covering = 0
            run = -1
            for s in range(row_start[r], row_start[r + 1]):
                here = False
                if k >= 0:
                    for e in range(edge_start[k], edge_start[k + 1]):
                        here = here or edge_owner[e] == slab_owner[s]
                inside = slab_reach[s, 0] <= x <= slab_reach[s, 1]
                if here or (inside and _covers(x, y, slab_start[s], slab_start[s + 1], slab_ends) == 1):
                    covering += 1
                    run = slab_owner[s] if covering == 1 else -3 - undecided
                    if len(found):
                        found[n, 0], found[n, 1], found[n, 2] = k if k >= 0 else undecided, slab_owner[s], s
                    n += 1
            if k < 0:
                if covering > 1:
                    undecided += 1
                elif covering == 1:
                    n -= 1
                box[r * cols + c] = run
    return n, undecided


@compiled
def _mark_far(box, lat0, lon0, size, cols, reach, seen, near):
    """Write FAR into the boxes without an answer from no point of which `_nearest` could see an edge within `reach`.

    `seen` and `near` are room, one for each column.
    """
    rows = len(box) // cols
    dy = reach / 110_500.0  # as in `_nearest`
    up = int(np.ceil(dy / size)) + 1  # rows and columns that the search may visit, and one for rounding
    seen[:] = -1 - up  # the newest row with an edge in each column, up to `up` rows ahead
    for r in range(-up, rows):
        ahead = r + up
        if ahead < rows:
            for c in range(cols):
                if box[ahead * cols + c] <= -3:
                    seen[c] = ahead
        if r < 0:
            continue
        south = abs(lat0 + r * size)
        cosine = np.cos(min(90.0, max(south, abs(lat0 + (r + 1) * size)) + dy) * _RAD)
        dx = reach / (111_300.0 * cosine) if cosine > 1e-6 else 360.0
        if dx >= 360.0:
            continue
        wide = int(np.ceil(dx / size)) + 1
        until = -1  # the last column within reach of an edge to the west
        for c in range(cols):
            if seen[c] >= r - up:
                until = c + wide
            near[c] = c <= until
        until = cols
        for c in range(cols - 1, -1, -1):
            if seen[c] >= r - up:
                until = c - wide
            west, east = lon0 + c * size, lon0 + (c + 1) * size
            if not (near[c] or c >= until or west - dx <= -180.0 or east + dx >= 180.0) and box[r * cols + c] == -1:
                box[r * cols + c] = FAR


@compiled
def _locate(lat, lon, out, box, lat0, lon0, size, cols, cand_start, cand, slab_start, slab_ends):
    """The first polygon that covers each point; -1 for none, FAR for none within reach, -3 for a question to GEOS."""
    for i in range(len(lat)):
        y, x = lat[i], lon[i]
        out[i] = -1
        if not (-90.0 <= y <= 90.0 and -180.0 <= x <= 180.0) or y < lat0 or x < lon0:
            continue
        r, c = int((y - lat0) / size), int((x - lon0) / size)
        if c >= cols or r * cols >= len(box):
            continue
        k = -3 - box[r * cols + c]
        if k < 0:
            out[i] = box[r * cols + c]
            continue
        for j in range(cand_start[k], cand_start[k + 1]):
            s = cand[j, 1]
            state = _covers(x, y, slab_start[s], slab_start[s + 1], slab_ends)
            if state != 0:
                out[i] = cand[j, 0] if state == 1 else -3
                break


@compiled
def _search(y, x, radius, skip, box, lat0, lon0, size, cols, edge_start, edge_list, edge_owner, ends):
    """The polygon nearest to a point within `radius` metres, -1 for none; ties to the first polygon.

    With a `skip` of 0 or more that polygon does not count and any other within the radius will do.
    """
    best, found = radius, -1
    ky, kx = _metric(y)
    dy = best / 110_500.0  # a degree of latitude has 110,574 m or more, of longitude at least 111,319 m x cos(lat)
    cosine = np.cos(min(90.0, abs(y) + dy) * _RAD)
    dx = min(360.0, best / (111_300.0 * cosine)) if cosine > 1e-6 else 360.0
    south, north = y - dy - MARGIN, y + dy + MARGIN
    rows = len(box) // cols
    r0, r1 = max(0.0, (y - dy - lat0) / size), min(rows - 1.0, (y + dy - lat0) / size)
    for shift in (0.0, -360.0, 360.0):  # a neighbour may lie across the 180th meridian
        if shift != 0.0 and abs(x) + dx < 180.0:
            continue
        at = x + shift
        west, east = at - dx - MARGIN, at + dx + MARGIN
        c0, c1 = max(0.0, (at - dx - lon0) / size), min(cols - 1.0, (at + dx - lon0) / size)
        for r in range(int(r0), int(r1) + 1 if r1 >= 0.0 else 0):
            for c in range(int(c0), int(c1) + 1 if c1 >= 0.0 else 0):
                k = -3 - box[r * cols + c]
                if k < 0 or k >= len(edge_start) - 1:
                    continue
                for e in range(edge_start[k], edge_start[k + 1]):
                    owner = edge_owner[e]
                    if owner == skip:
                        continue
                    i = edge_list[e]
                    ax, ay, bx, by = ends[i, 0], ends[i, 1], ends[i, 2], ends[i, 3]
                    if max(ay, by) < south or min(ay, by) > north or max(ax, bx) < west or min(ax, bx) > east:
                        continue
                    d = _near(y, at, ax, ay, bx, by, ky, kx, best)
                    if d < best - TIE or (d <= best + TIE and 0 <= owner < found) or (d <= best and found < 0):
                        best, found = min(d, best), owner
                        if skip >= 0:
                            return found
    return found


@compiled
def _nearest(lat, lon, radius, skip, out, box, lat0, lon0, size, cols, edge_start, edge_list, edge_owner, ends):
    """`_search` for each point."""
    for i in range(len(lat)):
        y, x = lat[i], lon[i]
        out[i] = -1
        if -90.0 <= y <= 90.0 and -180.0 <= x <= 180.0:
            out[i] = _search(
                y, x, radius[i], skip[i], box, lat0, lon0, size, cols, edge_start, edge_list, edge_owner, ends
            )


@compiled
def _shared(lat, lon, place, out, box, lat0, lon0, size, cols, cand_start, cand, slab_start, slab_ends):
    """Whether a polygon other than `place` covers each point, or runs so near that rounding hides which."""
    rows = len(box) // cols
    for i in range(len(lat)):
        y, x = lat[i], lon[i]
        out[i] = False
        if not (y >= lat0 and x >= lon0):
            continue
        r, c = int((y - lat0) / size), int((x - lon0) / size)
        if c >= cols or r >= rows:
            continue
        k = -3 - box[r * cols + c]
        if k < 0:
            out[i] = box[r * cols + c] >= 0 and box[r * cols + c] != place[i]
            continue
        for j in range(cand_start[k], cand_start[k + 1]):
            s = cand[j, 1]
            if cand[j, 0] != place[i] and _covers(x, y, slab_start[s], slab_start[s + 1], slab_ends) != 0:
                out[i] = True
                break


@compiled
def _plainly_located(lat, lon, radius, out, box, lat0, lon0, size, cols, cosines):
    """The polygon of each point whose disc lies in boxes without an edge, of that polygon or of none; FAR for a point
    in such a box; -3 and below = look closer: what its box holds, so that points of one box can be put together.

    `cosines` has the smallest cosine of a latitude in each row: the disc is taken a little too wide, never too narrow.
    """
    rows = len(cosines)
    for i in range(len(lat)):
        y, x = lat[i], lon[i]
        out[i] = -3
        dy = radius[i] / 110_500.0
        if not (y - dy >= lat0 and y + dy < lat0 + rows * size):
            continue
        r0, r1 = int((y - dy - lat0) / size), min(int((y + dy - lat0) / size), rows - 1)
        dx = radius[i] / (111_300.0 * min(cosines[r0], cosines[r1]))
        if not (x - dx >= lon0 and x + dx < lon0 + cols * size and abs(x) + dx < 180.0):
            continue
        c0, c1 = int((x - dx - lon0) / size), min(int((x + dx - lon0) / size), cols - 1)
        k = box[min(int((y - lat0) / size), rows - 1) * cols + min(int((x - lon0) / size), cols - 1)]
        if k <= FAR:
            out[i] = k
        if k < 0 or (r1 - r0 + 1) * (c1 - c0 + 1) > 16:
            continue
        whole = True
        for r in range(r0, r1 + 1):
            for c in range(c0, c1 + 1):
                other = box[r * cols + c]
                whole = whole and (other == k or FAR <= other < 0)
        if whole:
            out[i] = k


@compiled
def _located(
    rows, lat, lon, radius, place, inner, box, lat0, lon0, size, cols, cand_start, cand, slab_start, slab_ends,
    edge_start, edge_list, edge_owner, ends,
):  # fmt: skip
    """`_locate` for some rows, and whether the disc round the point meets no other polygon than that."""
    for i in rows:
        y, x = lat[i], lon[i]
        place[i], inner[i] = -1, False
        if not (-90.0 <= y <= 90.0 and -180.0 <= x <= 180.0) or y < lat0 or x < lon0:
            continue
        r, c = int((y - lat0) / size), int((x - lon0) / size)
        if c >= cols or r * cols >= len(box):
            continue
        here, shared = np.int64(box[r * cols + c]), False
        if here <= -3:
            k, here = -3 - here, np.int64(-1)
            for j in range(cand_start[k], cand_start[k + 1]):
                s = cand[j, 1]
                state = _covers(x, y, slab_start[s], slab_start[s + 1], slab_ends)
                if state == 0:
                    continue
                if here >= 0:
                    shared = True
                else:
                    here = np.int64(cand[j, 0]) if state == 1 else np.int64(-3)
                if shared or state < 0:
                    break
        place[i] = here
        if here >= 0 and not shared:
            other = _search(y, x, radius[i], here, box, lat0, lon0, size, cols, edge_start, edge_list, edge_owner, ends)
            inner[i] = other < 0


def covering(polygons: NDArray[Any], lat: NDArray[np.float64], lon: NDArray[np.float64]) -> NDArray[np.int32]:
    """The first of `polygons` that covers each point, -1 for none: decided by GEOS alone.

    The tree is over the points, since there are few polygons. GEOS prepares each polygon for this one call: a prepared
    polygon that threads share is not safe, its index is made at its first use.
    """
    out = np.full(len(lat), len(polygons), np.int32)
    if len(lat):
        of, point = shapely.STRtree(shapely.points(lon, lat)).query(polygons, predicate="covers")
        np.minimum.at(out, point, of.astype(np.int32))
    out[out == len(polygons)] = -1
    return out


def _starts(keys: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Where each of the keys 0 .. count begins in the sorted `keys`."""
    return np.searchsorted(keys, np.arange(count + 1)).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Borders:
    """The grid over `polygons` (valid, degrees, x = longitude); the module says what it holds. Threads may share it."""

    polygons: NDArray[Any]
    grid: tuple[Any, ...]  # box, lat0, lon0, size, cols
    candidates: tuple[Any, ...]  # cand_start, cand (polygon, slab), slab_start, slab_ends
    edges: tuple[Any, ...]  # edge_start, edge_list, edge_owner, ends

    @classmethod
    def of(cls, polygons: NDArray[Any]) -> Borders:
        """Lay the edges of `polygons` into boxes: 0.3 s for 190,000 edges, once compiled."""
        parts, of_part = shapely.get_parts(polygons, return_index=True)
        rings, of_ring = shapely.get_rings(parts, return_index=True)
        of_polygon = of_part[of_ring]
        xy, of_ring = shapely.get_coordinates(rings, return_index=True)
        edge = np.flatnonzero(of_ring[1:] == of_ring[:-1])
        ends = np.ascontiguousarray(np.hstack([xy[edge], xy[edge + 1]]))
        owner = of_polygon[of_ring[edge]].astype(np.int32)
        (lon0, lat0), (lon1, lat1) = xy.min(axis=0), xy.max(axis=0)
        wanted = min(MAX_BOXES, max(10_000, BOXES_PER_EDGE * len(ends)))
        size = max(MIN_SIZE, float(np.sqrt((lon1 - lon0) * (lat1 - lat0) / wanted)))
        lat0, lon0 = float(lat0 - size), float(lon0 - size)  # a rim of empty boxes all round
        rows, cols = int((lat1 - lat0) / size) + 2, int((lon1 - lon0) / size) + 2

        count = _draw(ends, lat0, lon0, size, cols, np.empty(0, np.int64), np.empty(0, np.int32))
        boxes, edges = np.empty(count, np.int64), np.empty(count, np.int32)
        _draw(ends, lat0, lon0, size, cols, boxes, edges)

        slab = (boxes // cols) * len(ends) + edges  # edges by row, then by polygon: they come in its order
        slab = np.sort(slab[np.append(True, slab[1:] != slab[:-1])])  # an edge's boxes in one row come together
        slab_row, slab_edge = slab // len(ends), slab % len(ends)
        slab_ends = ends[slab_edge]
        key = slab_row * len(polygons) + owner[slab_edge]
        slab_keys, begin = np.unique(key, return_index=True)
        slab_start = np.append(begin, len(key)).astype(np.int64)
        row_start = _starts(slab_keys // len(polygons), rows)
        slab_owner = (slab_keys % len(polygons)).astype(np.int32)
        west = np.minimum.reduceat(np.minimum(slab_ends[:, 0], slab_ends[:, 2]), begin)
        east = np.maximum.reduceat(np.maximum(slab_ends[:, 0], slab_ends[:, 2]), begin)

        order = np.argsort(boxes, kind="stable")
        met, begin = np.unique(boxes[order], return_index=True)
        edge_start, edge_list = np.append(begin, count).astype(np.int64), edges[order]
        edge_owner = owner[edge_list]
        box = np.full(rows * cols, -1, np.int32)
        box[met] = -3 - np.arange(len(met))
        rest = (cols, lat0, lon0, size, row_start, slab_owner, np.column_stack([west, east]), slab_start, slab_ends)
        none = np.empty((0, 3), np.int32)
        count, undecided = _label(box.copy(), *rest, edge_start, edge_owner, none)
        found = np.empty((count + 1, 3), np.int32)  # one more: a box with one answer is written, then taken back
        _label(box, *rest, edge_start, edge_owner, found)
        _mark_far(box, lat0, lon0, size, cols, REACH, np.empty(cols, np.int64), np.empty(cols, np.bool_))
        found = found[:count][np.argsort(found[:count, 0], kind="stable")]
        return cls(
            polygons,
            (box, lat0, lon0, size, cols),
            (_starts(found[:, 0], undecided), np.ascontiguousarray(found[:, 1:]), slab_start, slab_ends),
            (edge_start, edge_list, edge_owner, ends),
        )

    def locate(self, lat: NDArray[np.float64], lon: NDArray[np.float64]) -> NDArray[np.int32]:
        """The first polygon that covers each point (its edge counts), -1 for none or an unusable position.

        FAR instead of -1 says that no polygon is within `REACH` metres either.
        """
        out = np.empty(len(lat), np.int32)
        _locate(lat, lon, out, *self.grid, *self.candidates)
        close = np.flatnonzero(out == -3)
        out[close] = covering(self.polygons, lat[close], lon[close])
        return out

    def located(
        self, lat: NDArray[np.float64], lon: NDArray[np.float64], radius: NDArray[np.float64]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """(`locate`, `alone`) of every point at once: most have their answer by one look at the grid."""
        box, lat0, _, size, cols = self.grid
        sides = np.abs(lat0 + size * np.arange(len(box) // cols + 1))
        cosines = np.cos(np.radians(np.minimum(np.maximum(sides[1:], sides[:-1]), 90.0)))
        place = np.empty(len(lat), np.int32)
        _plainly_located(lat, lon, radius, place, *self.grid, np.maximum(cosines, 1e-9))
        inner = place >= 0
        rest = np.flatnonzero(place <= -3)
        rest = rest[np.argsort(place[rest])]  # edges are then fetched once a box: 270 ns a point instead of 700
        _located(rest, lat, lon, radius, place, inner, *self.grid, *self.candidates, *self.edges)
        close = np.flatnonzero(place == -3)
        place[close] = covering(self.polygons, lat[close], lon[close])
        close = close[place[close] >= 0]
        inner[close] = self.alone(lat[close], lon[close], radius[close], place[close])
        return place, inner

    def nearest(self, lat: NDArray[np.float64], lon: NDArray[np.float64], within: float) -> NDArray[np.int32]:
        """For points that no polygon covers: the nearest one at most `within` metres away, -1 for none.

        In a box that is FAR there is none, which who has asked `locate` knows.
        """
        out = np.full(len(lat), -1, np.int32)
        for reach in (within / 10, within):  # most lie close by, where the search is a hundred times smaller
            left = np.flatnonzero(out < 0)
            found, skip = np.empty(len(left), np.int32), np.full(len(left), -1, np.int32)
            _nearest(lat[left], lon[left], np.full(len(left), reach), skip, found, *self.grid, *self.edges)
            out[left] = found
        return out

    def alone(
        self,
        lat: NDArray[np.float64],
        lon: NDArray[np.float64],
        radius: NDArray[np.float64],
        place: NDArray[np.int32],
    ) -> NDArray[np.bool_]:
        """Whether the closed disc of `radius` metres round each point meets no polygon but `place` (0 or more)."""
        shared = np.empty(len(lat), np.bool_)
        _shared(lat, lon, place, shared, *self.grid, *self.candidates)
        other = np.empty(len(lat), np.int32)
        _nearest(lat, lon, np.where(shared, -1.0, radius), place, other, *self.grid, *self.edges)
        return ~shared & (other < 0)
