"""Places: laws and edges of DESIGN 3.2 on toy squares and on China, with GEOS alone as the oracle."""

import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import h3.api.basic_int as h3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from shapely.geometry import LineString, MultiPolygon, Polygon, box, mapping

from travelcard import places
from travelcard.boundaries import from_gcj02
from travelcard.errors import InputError, MissingExtra, NotFound
from travelcard.places import Places, from_file, from_polygons

GCJ02 = [
    ((116.397128, 39.916527), (116.40337249402477, 39.91793074924595)),
    ((121.4737, 31.2304), (121.47822305927693, 31.22845773757727)),
    ((87.6, 43.8), (87.60283897227161, 43.80121203029208)),
]
SQUARES = {"330100": box(120, 30, 121, 31), "330200": box(121, 30, 122, 31), "JPN": box(123, 30, 124, 31)}


def of(shapes=None):
    shapes = shapes or SQUARES
    return from_polygons(list(shapes), [f"{c}市" for c in shapes], ["浙江省"] * len(shapes), list(shapes.values()))


def brute(p, lat, lon):
    """The smallest code whose polygon covers each point: one polygon after the other, GEOS only."""
    out = np.full(len(lat), -1)
    for i in reversed(range(len(p.codes))):
        shapely.prepare(p.polygons[i])
        out[shapely.intersects_xy(p.polygons[i], lon, lat)] = i
    return out


def code(p, lat, lon, **snap):
    i = p.locate([lat], [lon], **snap)[0]
    return p.codes[i] if i >= 0 else None


@pytest.fixture(scope="module")
def china():
    return places.china()


@pytest.fixture(scope="module")
def near_borders(china):
    rng = np.random.default_rng(7)
    xy = shapely.get_coordinates(china.polygons)
    xy = xy[rng.integers(0, len(xy), 60_000)] + rng.normal(0, 1, (60_000, 2)) * 10.0 ** rng.uniform(-7, -1, (60_000, 1))
    return xy[:, 1].copy(), xy[:, 0].copy()


# ---- China


@pytest.mark.parametrize(
    ("lat", "lon", "expected"),
    [
        (30.25, 120.17, "330100"),
        (39.9, 116.4, "110000"),
        (29.56, 106.55, "500000"),
        (30.36, 113.45, "429004"),  # 仙桃, a county administered by its province
        (31.75, 110.67, "429021"),  # 神农架林区
        (44.3, 86.03, "659001"),
        (22.3, 114.17, "HKG"),
        (22.2, 113.55, "MAC"),
        (25.03, 121.56, "TWN"),
        (16.83, 112.34, "460300"),
        (35.68, 139.76, None),
        (0.0, 0.0, None),
    ],
)
def test_cities_of_china(china, lat, lon, expected):
    assert code(china, lat, lon) == expected


def test_the_places_of_2022(china):
    assert len(china.codes) == 371
    assert list(china.codes) == sorted(china.codes, key=str.encode)
    assert not set(china.codes) & {"659012", "629700", "629800", "629900", "710000", "810000", "820000"}
    assert {"659011", "419001", "469001", "HKG", "MAC", "TWN"} <= set(china.codes)
    assert all(china.names_en)
    assert shapely.is_valid(china.polygons).all()


def test_names(china):
    assert china.printed("330100") == "浙江省杭州市"
    assert [china.printed(c) for c in ("110000", "120000", "310000", "500000")] == [
        "北京市",
        "天津市",
        "上海市",
        "重庆市",
    ]
    assert [china.printed(c) for c in ("JPN", "HKG", "MAC", "TWN")] == ["日本", "中国香港", "中国澳门", "中国台湾"]
    assert (china.province("429004"), china.province("HKG"), china.province("JPN")) == ("湖北省", "", "")
    english = {
        "610100": "Xi'an", "500000": "Chongqing", "350200": "Xiamen", "220100": "Changchun", "341500": "Lu'an",
        "340300": "Bengbu", "331100": "Lishui", "331000": "Taizhou", "150100": "Hohhot", "650100": "Urumqi",
        "540100": "Lhasa", "653100": "Kashgar", "540200": "Xigaze", "222400": "Yanbian", "522300": "Qianxinan",
        "141100": "Lüliang", "152900": "Alxa", "JPN": "Japan", "TWN": "Taiwan, China",
    }  # fmt: skip
    assert {c: china.name(c, "en") for c in english} == english
    with pytest.raises(NotFound, match="no place '999999'"):
        china.printed("999999")
    with pytest.raises(InputError, match="'zh' or 'en'"):
        china.name("330100", "fr")


def test_china_agrees_with_geos_everywhere_and_near_borders(china, near_borders):
    rng = np.random.default_rng(3)
    lat, lon = rng.uniform(15, 54, 100_000), rng.uniform(73, 136, 100_000)
    assert (china.locate(lat, lon, snap=0) == brute(china, lat, lon)).all()
    assert (china.locate(*near_borders, snap=0) == brute(china, *near_borders)).all()


def test_china_agrees_with_geos_on_the_borders(china):
    xy = shapely.get_coordinates(china.polygons)[::9]
    middle = (xy[1:] + xy[:-1]) / 2
    for points in (xy, middle):
        lat, lon = points[:, 1].copy(), points[:, 0].copy()
        assert (china.locate(lat, lon, snap=0) == brute(china, lat, lon)).all()
    assert (china.locate(xy[:, 1], xy[:, 0], snap=0) >= 0).all()


def test_h3_index_never_contradicts_the_polygons(china, near_borders):
    rng = np.random.default_rng(4)
    lat = np.concatenate([near_borders[0][:20_000], rng.uniform(18, 53, 20_000)])
    lon = np.concatenate([near_borders[1][:20_000], rng.uniform(74, 135, 20_000)])
    truth = china.locate(lat, lon, snap=0)
    for resolution in (7, 9, 13):
        cells = [h3.latlng_to_cell(y, x, resolution) for y, x in zip(lat, lon, strict=True)]
        found = china.of_h3(cells)
        assert (found[found >= 0] == truth[found >= 0]).all()
        assert (found[20_000:] >= 0).sum() > 0.9 * (truth[20_000:] >= 0).sum()
    coarse = china.of_h3([h3.latlng_to_cell(30.25, 120.17, 1), h3.latlng_to_cell(0.0, 0.0, 9)])
    assert coarse.tolist() == [-1, -1]


def test_threads_share_one_object(china, near_borders):
    fresh = pickle.loads(pickle.dumps(china))
    found = {"borders", "polygons", "_shapes", "_cells", "_intervals", "_at", "digest"}
    assert fresh.__dict__.keys() == china.__dict__.keys() - found
    with ThreadPoolExecutor(4) as pool:
        first, *rest = pool.map(lambda _: fresh.locate(*near_borders), range(8))
    assert all((r == first).all() for r in rest)
    assert (first == china.locate(*near_borders)).all()


def test_inner_agrees_with_geos(china):
    rng = np.random.default_rng(5)
    lat, lon = rng.uniform(28, 33, 1500), rng.uniform(116, 122, 1500)
    place = china.locate(lat, lon)
    lat, lon, place = lat[place >= 0], lon[place >= 0], place[place >= 0]
    radius = rng.choice([0.0, 100.0, 1000.0, 8000.0], len(lat))
    got = china.inner(lat, lon, radius, place)
    tree = shapely.STRtree(china.polygons)
    for i in range(len(lat)):
        # the circle as the ellipse that it is in degrees, to within 0.5 %: a little smaller and a little larger
        degree = np.array([111_500.0 * np.cos(np.radians(lat[i])), 110_900.0])
        meets = []
        for share in (0.99, 1.01):
            ring = shapely.get_coordinates(shapely.Point(0, 0).buffer(max(radius[i] * share, 1e-6), 64))
            disc = Polygon(ring / degree + [lon[i], lat[i]])
            meets.append(bool(set(tree.query(disc, predicate="intersects")) - {place[i]}))
        if meets[0] == meets[1]:
            assert got[i] == (not meets[0]), (lat[i], lon[i], radius[i])


@pytest.mark.parametrize("radius", [0.0, 30.0, 3000.0, 60_000.0])
def test_place_and_inner_in_one_look_are_those_of_two(china, near_borders, radius):
    rng = np.random.default_rng(9)
    everywhere = rng.uniform(15, 54, 20_000), rng.uniform(73, 136, 20_000)
    sparse = of({"000001": shapely.box(170, 80, 180, 90), "000002": shapely.box(-180, 80, -170, 90)})
    for p, (lat, lon) in (
        (china, near_borders),
        (china, everywhere),
        (sparse, (rng.uniform(79, 90, 500), lon_180(rng))),
    ):
        metres = radius * rng.uniform(0.5, 1, len(lat))
        place, inner = p.located(lat, lon, metres)
        assert (place == p.locate(lat, lon)).all()
        assert (inner == p.inner(lat, lon, metres, place)).all()


def lon_180(rng):
    """Longitudes round the 180th meridian."""
    lon = rng.uniform(168, 192, 500)
    return np.where(lon > 180, lon - 360, lon)


# ---- edges, overlaps, snapping


def test_edges_count_and_the_smaller_code_wins():
    p = of()
    assert [code(p, 30.5, x, snap=0) for x in (120.0, 121.0, 122.0, 123.0, 124.0)] == [
        "330100", "330100", "330200", "JPN", "JPN"]  # fmt: skip
    assert [code(p, y, 120.3, snap=0) for y in (30.0, 31.0)] == ["330100"] * 2
    assert code(p, 30.0, 121.0, snap=0) == "330100"
    assert code(p, np.nextafter(30.0, 0), 120.3, snap=0) is None
    slanted = of({"A": Polygon([(0, 0), (3, 1), (0, 3)]), "B": Polygon([(0, 0), (3, 0), (3, 1)])})
    for t in (1 / 3, 0.1, 0.5):  # on the common edge, as far as doubles can say
        assert code(slanted, t * 1, t * 3, snap=0) == ["A", "B", None][brute(slanted, [t * 1], [t * 3])[0]]


def test_overlaps_holes_and_a_place_within_another():
    p = of({"2": box(0, 0, 4, 4), "1": box(3, 0, 6, 4), "0": box(1, 1, 2, 2)})
    assert [code(p, 1.5, x, snap=0) for x in (0.5, 1.5, 2.5, 3.0, 3.5, 5)] == ["2", "0", "2", "1", "1", "1"]
    assert p.inner([1.5, 0.5, 1.5], [1.5, 0.5, 3.5], 0, p.locate([1.5, 0.5, 1.5], [1.5, 0.5, 3.5])).tolist() == [
        False, True, False]  # fmt: skip
    ring = of({"A": Polygon(box(0, 0, 4, 4).exterior, [box(1, 1, 3, 3).exterior]), "B": box(1.5, 1.5, 2, 2)})
    assert [code(ring, 1.75, x, snap=0) for x in (0.5, 1.25, 1.75)] == ["A", None, "B"]


def test_random_overlapping_triangles_agree_with_geos():
    rng = np.random.default_rng(11)
    shapes = {f"{i:02}": Polygon(t) for i, t in enumerate(rng.integers(0, 9, (25, 3, 2))) if Polygon(t).area}
    p = of(shapes)
    lat, lon = rng.integers(0, 37, (2, 5000)) / 4  # many on vertices and edges
    assert (p.locate(lat, lon, snap=0) == brute(p, lat, lon)).all()
    lat, lon = rng.uniform(-1, 10, (2, 5000))
    assert (p.locate(lat, lon, snap=0) == brute(p, lat, lon)).all()


@pytest.mark.parametrize(
    ("inside", "outside"),  # geodesic 4,999.99 and 5,000.01 m from the first square (pyproj's Geod, WGS 84)
    [
        ((30.499989595777112, 121.05208380744972), (30.499989595693883, 121.05208401578534)),
        ((31.045097832402433, 120.5), (31.045098012793503, 120.5)),
        ((31.03188370647856, 121.03703189678978), (31.031883833992083, 121.03703204496699)),
    ],
)
def test_snap_is_geodesic(inside, outside):
    p = of({"330100": SQUARES["330100"]})
    assert code(p, *inside) == "330100"
    assert code(p, *outside) is None
    assert code(p, *outside, snap=5000.02) == "330100"
    assert code(p, *inside, snap=0) is None


@pytest.fixture(scope="module")
def near_the_limit(china):
    """Points some 5 km from a vertex of a coast or an outer border, in all directions, and points anywhere."""
    rng = np.random.default_rng(21)
    outline = shapely.get_coordinates(shapely.union_all(china.polygons).simplify(0.01))
    at = outline[rng.integers(0, len(outline), 20_000)]
    angle = rng.uniform(0, 2 * np.pi, 20_000)
    metres = 5000 + rng.normal(0, 1, 20_000) * 10.0 ** rng.uniform(-3, 4, 20_000)
    lat = at[:, 1] + metres * np.sin(angle) / 110_900
    lon = at[:, 0] + metres * np.cos(angle) / (111_400 * np.cos(np.radians(at[:, 1])))
    return (
        np.concatenate([lat, rng.uniform(15, 54, 20_000)]),
        np.concatenate([lon, rng.uniform(73, 136, 20_000)]),
    )


def test_boxes_out_of_reach_hide_no_coast(china, near_the_limit):
    lat, lon = near_the_limit
    further = np.nextafter(places.SNAP, np.inf)  # for which the marks of the grid say nothing: every point is searched
    assert (china.locate(lat, lon) == china.locate(lat, lon, snap=further)).all()
    place, inner = china.located(lat, lon, 0.0)
    assert (place == china.locate(lat, lon)).all()
    assert (inner == china.inner(lat, lon, 0.0, place)).all()
    assert china.locate(lat, lon).min() == -1


def test_snap_agrees_with_geos(china, near_the_limit):
    lat, lon = near_the_limit
    got = china.locate(lat, lon)
    outside = np.flatnonzero(brute(china, lat, lon) < 0)[:3000]
    tree = shapely.STRtree(china.polygons)
    seen = 0
    for i in outside:
        window = shapely.box(lon[i] - 0.12, lat[i] - 0.06, lon[i] + 0.12, lat[i] + 0.06)  # 6 km and more to every side
        close = tree.query(window)
        phi = np.radians(lat[i])
        degree = np.array([111_412.8 * np.cos(phi) - 93.5 * np.cos(3 * phi), 111_132.9 - 559.8 * np.cos(2 * phi)])
        flat = shapely.clip_by_rect(china.polygons[close], *window.bounds)
        flat = shapely.transform(flat, lambda xy, at=(lon[i], lat[i]), d=degree: (xy - at) * d)
        metres = np.nan_to_num(shapely.distance(flat, shapely.Point(0, 0)), nan=1e9)
        first, second = np.sort(np.append(metres, [1e9, 2e9]))[:2]
        if abs(first - 5000) < 10 or second - first < 1 + first / 1000:
            continue  # a plane is no ellipsoid: too near to tell
        seen += 1
        assert got[i] == (close[metres.argmin()] if first < 5000 else -1), (lat[i], lon[i])
    assert seen > 1000


def test_snap_takes_the_nearest_and_ties_go_to_the_smaller_code():
    p = of({"B": box(0, 0, 1, 1), "A": box(1.04, 0, 2, 1), "C": box(0, 1, 1, 2)})
    assert [code(p, 0.5, x) for x in (1.019, 1.02, 1.021)] == ["B", "A", "A"]
    assert code(p, 1.0, -0.01) == "B"  # the vertex that B and C share
    assert code(of({"E": box(179, 0, 180, 1)}), 0.5, -179.99) == "E"  # across the 180th meridian


def test_unusable_positions_are_in_no_place():
    p = of()
    assert p.locate([np.nan, 30.5, 95.0, 30.5], [120.5, np.inf, 120.5, 500.0]).tolist() == [-1] * 4
    assert p.locate([], []).tolist() == []
    with pytest.raises(InputError, match="snap: expected metres"):
        p.locate([30.5], [120.5], snap=-1)
    with pytest.raises(InputError, match="equally long"):
        p.locate([30.5], [120.5, 1.0])
    with pytest.raises(InputError, match="radius: expected metres"):
        p.inner([30.5], [120.5], np.nan, 0)


def test_inner_is_the_closed_disc_and_the_sea_does_not_count():
    p = of()
    assert p.inner([30.5] * 2, [121.05] * 2, [4790.0, 4810.0], 1).tolist() == [True, False]  # 4,800 m to the border
    assert p.inner([30.5], [120.01], 50_000.0, 0).tolist() == [True]
    assert p.inner([30.5, 30.5], [121.0, 121.0], 0, [0, 1]).tolist() == [False, False]  # on the border: both meet
    assert p.inner([30.5], [122.02], 1000.0, p.locate([30.5], [122.02])).tolist() == [True]  # snapped
    assert p.inner([30.5], [126.0], 0, -1).tolist() == [False]


# ---- files


def test_save_load_pickle(tmp_path):
    p = of()
    p.save(tmp_path / "p.parquet")
    for q in (Places.load(tmp_path / "p.parquet"), pickle.loads(pickle.dumps(p))):
        assert (q.codes, q.names, q.provinces, q.digest) == (p.codes, p.names, p.provinces, p.digest)
        assert code(q, 30.5, 121.5) == "330200"
        cell = h3.latlng_to_cell(30.5, 121.5, 9)
        assert q.of_h3([cell]).tolist() == p.of_h3([cell]).tolist() == [1]
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="no file of places"):
        Places.load(tmp_path / "x.parquet")
    (tmp_path / "y").write_text("no parquet")
    with pytest.raises(InputError, match="cannot be read as places"):
        Places.load(tmp_path / "y")


def geojson(path, shapes, crs=None, columns=("code", "name")):
    rows = [
        {
            "type": "Feature",
            "properties": {columns[0]: c, columns[1]: f"{c}市", "prov": "浙江省"},
            "geometry": mapping(g),
        }
        for c, g in shapes
    ]
    named = {"crs": {"type": "name", "properties": {"name": crs}}} if crs else {}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": rows, **named}))
    return path


def geoparquet(path, shapes, crs="default"):
    column = {"encoding": "WKB", "geometry_types": []} | ({} if crs == "default" else {"crs": crs})
    geo = {"version": "1.0.0", "primary_column": "geom", "columns": {"geom": column}}
    table = pa.table(
        {"code": [c for c, _ in shapes], "name": [f"{c}市" for c, _ in shapes], "geom": [g.wkb for _, g in shapes]}
    )
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
    return path


def test_boundaries_from_geojson_geoparquet_and_shapefile(tmp_path):
    pyogrio = pytest.importorskip("pyogrio")
    shapes = list(SQUARES.items())
    shapefile = tmp_path / "s.shp"
    pyogrio.raw.write(
        shapefile, np.array([g.wkb for g in SQUARES.values()], object), [np.array(list(SQUARES), object)] * 2,
        ["code", "name"], geometry_type="Polygon", crs="EPSG:4490",
    )  # fmt: skip
    for path in (
        geojson(tmp_path / "s.geojson", shapes, "urn:ogc:def:crs:EPSG::4490"),
        geoparquet(tmp_path / "s.parquet", shapes),
        geoparquet(tmp_path / "t.parquet", shapes, {"id": {"authority": "EPSG", "code": 4326}}),
        geoparquet(tmp_path / "u.parquet", shapes, None),
        shapefile,
    ):
        p = from_file(path)
        assert p.codes == ("330100", "330200", "JPN")
        assert code(p, 30.5, 121.5) == "330200"
    p = from_file(
        geojson(tmp_path / "c.geojson", shapes, columns=("id", "label")), code="id", name="label", province="prov"
    )
    assert p.printed("330200") == "浙江省330200市"


def test_every_problem_of_a_boundary_file_is_told_at_once(tmp_path):
    bow = Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    shapes = [
        ("A", bow),
        ("B", box(5, 5, 6, 6)),
        ("B", box(7, 7, 8, 8)),
        ("C", LineString([(0, 0), (1, 1)])),
        ("D", Polygon()),
        ("E", box(5.5, 5, 6.5, 6)),
    ]
    with pytest.raises(InputError) as caught:
        from_file(geoparquet(tmp_path / "b.parquet", shapes))
    text = str(caught.value)
    assert "5 problems" in text
    for line in (
        "B and E overlap by",
        "B: 2 rows have this code",
        "A: Self-intersection[0.5 0.5]",
        "C: a LineString",
        "D: no geometry",
    ):
        assert line in text


def test_overlaps_are_told_with_their_area_and_slivers_allowed(tmp_path):
    shapes = [
        ("A", box(0, 0, 1, 1)),
        ("B", box(0.5, 0, 1.5, 1)),
        ("C", box(1.4, 0, 2, 1)),
        ("D", box(1.99999, 0, 3, 1)),
    ]
    with pytest.raises(InputError, match=r"2 problems\n  A and B overlap by 6.18e\+03 km2\n  B and C overlap by 1.24e"):
        from_file(geoparquet(tmp_path / "o.parquet", shapes))
    sliver = [("A", box(0, 0, 1, 1)), ("B", box(0.999999, 0, 2, 1))]
    assert code(from_file(geoparquet(tmp_path / "s.parquet", sliver)), 0.5, 0.9999995) == "A"


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([], {}, "no rows"),
        ([("A", box(0, 0, 1, 1))], {"code": "adcode"}, "code  column 'adcode' is missing  found code, name"),
        ([("A", box(0, 0, 1, 1))], {"province": "p"}, "province  column 'p' is missing"),
        ([("", box(0, 0, 1, 1))], {}, "row 0: no code"),
        ([("A", box(0, 0, 1, 1))], {"crs": "BD-09"}, "expected 'WGS84' or 'GCJ-02'"),
        ([("A", box(30, 120, 31, 121))], {}, "swapped"),
        ([("650100", box(43, 86, 44, 88))], {}, "swapped"),  # in range, but China's codes with the axes exchanged
        ([("A", box(5e5, 3e6, 6e5, 4e6))], {}, "not longitude and latitude in degrees"),
    ],
)
def test_refused_boundaries(tmp_path, shapes, options, message):
    with pytest.raises(InputError, match=message):
        from_file(geoparquet(tmp_path / "r.parquet", shapes), **options)


def test_another_declared_coordinate_system_is_refused(tmp_path):
    pytest.importorskip("pyogrio")
    shapes = [("A", box(0, 0, 1, 1))]
    with pytest.raises(InputError, match="declared as EPSG:3857: convert the file to WGS 84"):
        from_file(geojson(tmp_path / "m.geojson", shapes, "urn:ogc:def:crs:EPSG::3857"))
    with pytest.raises(InputError, match="declared as EPSG:3857"):
        from_file(geoparquet(tmp_path / "m.parquet", shapes, {"id": {"authority": "EPSG", "code": 3857}}))
    pq.write_table(pa.table({"code": ["A"]}), tmp_path / "n.parquet")
    with pytest.raises(InputError, match="no GeoParquet"):
        from_file(tmp_path / "n.parquet")
    with pytest.raises(InputError, match="cannot be read as places"):
        from_file(tmp_path / "absent.geojson")


def test_without_pyogrio_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    with pytest.raises(MissingExtra, match=r"travelcard\[places\]"):
        from_file(tmp_path / "b.geojson")


def test_from_polygons_refuses_what_is_no_place():
    with pytest.raises(InputError, match="A: 2 rows"):
        from_polygons(["A", "A"], ["a", "b"], [None, None], [box(0, 0, 1, 1), box(2, 0, 3, 1)])
    with pytest.raises(InputError, match="equally many"):
        from_polygons(["A"], ["a", "b"], [None], [box(0, 0, 1, 1)])
    p = from_polygons(["A"], ["甲"], [None], [MultiPolygon([box(0, 0, 1, 1), box(2, 0, 3, 1)])])
    assert (p.printed("A"), p.name("A", "en"), code(p, 0.5, 2.5)) == ("甲", "甲", "A")


# ---- GCJ-02, countries, MCC


def test_gcj02_is_inverted(tmp_path):
    # WGS 84 and GCJ-02 of the same points, the latter by fast-geocn's own implementation
    for (lon, lat), (shifted_lon, shifted_lat) in GCJ02:
        y, x = from_gcj02([shifted_lat], [shifted_lon])
        assert abs(y[0] - lat) * 111_000 < 0.01
        assert abs(x[0] - lon) * 111_000 < 0.01
    y, x = from_gcj02([35.68, 51.5], [139.76, -0.1])
    assert (y.tolist(), x.tolist()) == ([35.68, 51.5], [139.76, -0.1])
    p = from_file(geoparquet(tmp_path / "g.parquet", [("A", box(116.0, 39.0, 117.0, 40.0))]), crs="GCJ-02")
    west = p.polygons[0].bounds[0]
    assert 0.004 < 116.0 - west < 0.008


def test_countries_and_network_codes():
    table = places.countries()
    assert table.columns == ["alpha3", "zh", "en"]
    assert len(table) == 250
    assert table["alpha3"].is_sorted()
    assert table.null_count().sum_horizontal()[0] == 0
    mcc = places.country_of_mcc()
    assert (mcc["440"], mcc["454"], mcc["455"], mcc["466"], mcc["221"]) == ("JPN", "HKG", "MAC", "TWN", "XKX")
    assert not {"460", "461", "901"} & set(mcc)
    assert set(mcc.values()) <= set(table["alpha3"])
    assert [places.is_abroad(c) for c in ("JPN", "XKX", "HKG", "MAC", "TWN", "330100")] == [True, True] + [False] * 4
