"""DESIGN section 3 in plain Python: the sentences of the design in order, beside the few lines that do what they say.

It is slow and obvious on purpose, reads nothing of `travelcard`, and is what every engine is compared with.

A ping is ``(subscriber, second, place, inner)``, a stay ``(subscriber, place, arrive, depart, pings, inner)``, a visit
``(subscriber, place, first, last, days, longest_s, transit, days_seen)``; seconds are UTC since 1970, durations are
seconds, days are `datetime.date`, `tz` is a name of the tz database. A policy is a dict; see `POLICY`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

__all__ = [
    "POLICY",
    "SEVERITY",
    "card",
    "clean",
    "colour",
    "day_of",
    "is_abroad",
    "marked",
    "merge",
    "midnight",
    "status_holds",
    "stays",
    "stitch",
    "visits",
    "window",
    "without_flicker",
]

HOUR = 3600
MAX_SILENCE = 12 * HOUR  # "`max_silence` (default 12 h, one for a store)"
POLICY = {
    "days": 14,
    "rule": "day_span",
    "min_stay": 4 * HOUR,  # "`min_stay` (default 4 h, `>=`)"
    "flicker": 600,  # "`flicker` (a policy's default: 10 min; 0 turns it off)"
    "border": "any",  # "`border` (policy, default `any`)"
    "abroad_from": None,  # a date from which places abroad are visited; None: always
    "marks": (),  # the risk levels that mark a city
    "colours": (),  # rules, see `rule_holds`
}
SEVERITY = ("red", "orange", "yellow", "green")


# ------------------------------------------------------------------------------------------------ words (section 2)


def is_abroad(place):
    """Three letters are a country or region; "Hong Kong, Macau and Taiwan ... coloured as domestic"."""
    return not place.isdigit() and place not in ("HKG", "MAC", "TWN")


def bytewise(text):
    """The order of "place code, bytewise (digits before letters)", and of subscribers: by value, or by bytes."""
    return text.encode() if isinstance(text, str) else text


# ---------------------------------------------------------------------------------------------- 3.1 clean pings


def midnight(day, tz):
    """The second at which `day` begins in `tz`."""
    return math.floor(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(tz)).timestamp())


def day_of(second, tz):
    """ "A *day* is a calendar day in the time zone `tz` of the store"."""
    return datetime.fromtimestamp(second, UTC).astimezone(ZoneInfo(tz)).date()


def second_of(time, timezone, unit):
    """A time as it was read, as a whole UTC second; ValueError where it is none."""
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    if isinstance(time, int):  # "an integer comes with its unit (`s`, `ms`, `us`)"
        return time // {"s": 1, "ms": 1_000, "us": 1_000_000}[unit]
    if time.tzinfo is None:  # "A time without an offset is in `[pings].timezone` (default UTC)"
        time = time.replace(tzinfo=ZoneInfo(timezone))
        if time.astimezone(UTC).astimezone(time.tzinfo).replace(tzinfo=None) != time.replace(tzinfo=None):
            raise ValueError("an hour that the clock skips")
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)  # "floored to the whole second, UTC"


def is_number(value):
    return value is not None and math.isfinite(value)


def absent(value):
    """Null, or an empty text: what a text file has where there is nothing."""
    return value is None or value == ""


def no_subscriber(subscriber):
    """ "`null_subscriber` (null, empty, NaN, negative, fractional or too long)"."""
    if subscriber is None:
        return True
    if isinstance(subscriber, str):
        return subscriber == ""
    if isinstance(subscriber, float):
        return not (math.isfinite(subscriber) and subscriber == int(subscriber) and 0 <= subscriber < 2**63)
    return not 0 <= subscriber < 2**63  # "a non-negative 64-bit integer"


def reason_or_ping(row, *, day, tz, timezone, unit, cell, locate, inner, country):
    """ "exactly one reason, the first that applies", or the ping."""
    if no_subscriber(row.get("subscriber")):
        return "null_subscriber"
    if absent(row.get("time")):
        return "null_time"
    try:
        second = second_of(row["time"], timezone, unit)
    except ValueError:
        return "bad_time"  # "(cannot be parsed)"
    if day is not None and day_of(second, tz) != day:
        return "outside_day"  # "(not on the day being processed)"

    lat, lon, accuracy = row.get("lat"), row.get("lon"), row.get("accuracy")
    # "A row that has several is read as cell before position before plmn, with no falling back."
    if not absent(row.get("cell")):
        known = cell(row["cell"], day_of(second, tz))
        if known is None:
            return "unknown_cell"  # "(id not in the inventory on that day)"
        place, is_inner = known
    elif lat is not None or lon is not None:
        if not (is_number(lat) and is_number(lon) and -90 <= lat <= 90 and -180 <= lon <= 180):
            return "bad_position"  # "(lat or lon missing, not finite or out of range"
        if accuracy is not None and not (math.isfinite(accuracy) and accuracy >= 0):
            return "bad_position"  # "accuracy negative or not finite)"
        place = locate(lat, lon)
        # "inner when the disc of its `accuracy` (default 0) meets no other place"
        is_inner = place is not None and inner(lat, lon, accuracy or 0, place)
    elif not absent(row.get("plmn")):
        mcc = str(row["plmn"])[:3]
        # "a plmn whose MCC is unknown, 9xx, or the home country's, 460 and 461"
        place = None if mcc.startswith("9") or mcc in ("460", "461") else country(mcc)
        is_inner = True  # "a ping by plmn is inner"
    else:
        return "null_cell"  # "(no cell, no position, no plmn)"
    if place is None:
        return "no_place"  # "(a location outside every place; ...)"
    return (row["subscriber"], second, place, is_inner)


def clean(
    rows,
    *,
    day=None,
    tz="Asia/Shanghai",
    timezone="UTC",
    unit=None,
    cell=lambda _id, _day: None,
    locate=lambda _lat, _lon: None,
    inner=lambda _lat, _lon, _metres, _place: True,
    country=lambda _mcc: None,
):
    """ "Every rejected row is on record ..., none silently dropped: clean + rejected = read".

    `cell(id, day)` is ``(place or None, inner)``, or None for an id that the inventory does not have on that day;
    `locate(lat, lon)` a place or None; `country(mcc)` a place or None. Returns pings and ``(row, reason)``.
    """
    pings, rejects = [], []
    for number, row in enumerate(rows):  # "row counted from 0"
        found = reason_or_ping(
            row, day=day, tz=tz, timezone=timezone, unit=unit, cell=cell, locate=locate, inner=inner, country=country
        )
        if isinstance(found, str):
            rejects.append((number, found))
        else:
            pings.append(found)
    assert len(pings) + len(rejects) == len(rows)
    return pings, rejects


def merge(pings):
    """The pings without repetitions, in order, and how many were merged (they count as clean)."""
    inners = {}
    for subscriber, second, place, inner in pings:
        # "Same subscriber, same second, same place: one ping (inner if any of them is)"
        key = (subscriber, second, place)
        inners[key] = inners.get(key, False) or bool(inner)
    # "Same second, different places: ordered by place code, bytewise"
    order = sorted(inners, key=lambda key: (bytewise(key[0]), key[1], bytewise(key[2])))
    return [(*key, inners[key]) for key in order], len(pings) - len(inners)


# ---------------------------------------------------------------------------------------------------- 3.3 stays


def in_order(some_stays):
    return sorted(some_stays, key=lambda stay: (bytewise(stay[0]), stay[2], bytewise(stay[1])))


def by_subscriber(rows):
    groups = defaultdict(list)
    for row in rows:
        groups[row[0]].append(row)
    return [groups[subscriber] for subscriber in sorted(groups, key=bytewise)]


def runs(pings, max_silence):
    """Stays of one subscriber's merged and sorted pings, midnights not looked at."""
    found = []
    for subscriber, second, place, inner in pings:
        last = found[-1] if found else None
        # "a maximal run of consecutive pings in the same place whose successive gaps are all <= `max_silence`"
        if last is not None and last[1] == place and second - last[3] <= max_silence:
            found[-1] = (subscriber, place, last[2], second, last[4] + 1, last[5] + inner)
        else:
            found.append((subscriber, place, second, second, 1, int(inner)))
    return found


def stays(pings, tz="Asia/Shanghai", max_silence=MAX_SILENCE):
    """ "a stay lies in one day (`tc.stays` cuts a frame of several days at every midnight of `tz`)"."""
    found = []
    for mine in by_subscriber(merge(pings)[0]):
        days = defaultdict(list)
        for ping in mine:
            days[day_of(ping[1], tz)].append(ping)
        # "The stays of day D are computed from day D's pings alone"
        for day in sorted(days):
            found += runs(days[day], max_silence)
    return found


def joined(some_stays, max_silence):
    """One subscriber's stays in order, stitched."""
    found = []
    for subscriber, place, arrive, depart, pings, inner in some_stays:
        last = found[-1] if found else None
        # "consecutive stays of one subscriber in one place with a gap <= `max_silence` are one stay"
        if last is not None and last[1] == place and arrive - last[3] <= max_silence:
            found[-1] = (subscriber, place, last[2], depart, last[4] + pings, last[5] + inner)
        else:
            found.append((subscriber, place, arrive, depart, pings, inner))
    return found


def stitch(some_stays, max_silence=MAX_SILENCE, flicker=0):
    found = []
    for mine in by_subscriber(in_order(some_stays)):
        whole = joined(mine, max_silence)
        if flicker > 0:  # "0 turns it off"
            whole = joined(without_flicker(whole, flicker), max_silence)  # "what is left is stitched again"
        found += whole
    return found


# -------------------------------------------------------------------------------------------------- 3.4 flicker


def without_flicker(s, flicker):
    """One subscriber's stitched stays s without the flickering ones, not yet stitched again."""
    # "position i is a *flicker candidate* when s(i-1) and s(i+1) exist, are in the same place, s(i) is in another one,
    # and arrive(i+1) - depart(i-1) <= `flicker`"
    candidate = [
        0 < i < len(s) - 1
        and s[i - 1][1] == s[i + 1][1]
        and s[i][1] != s[i - 1][1]
        and s[i + 1][2] - s[i - 1][3] <= flicker
        for i in range(len(s))
    ]
    left = []
    position = 0  # in the run of candidates, the first is 1
    for i, stay in enumerate(s):
        position = position + 1 if candidate[i] else 0
        # "In every maximal run of consecutive candidates the 1st, 3rd, 5th, ... are removed"
        if position % 2 == 0:
            left.append(stay)
    return left


# --------------------------------------------------------------------------------------------------- 3.5 visits


def window(as_of, days):
    """ "as of day D with N days is the N full days before D ... day D itself excluded": its first and last day."""
    return as_of - timedelta(days=days), as_of - timedelta(days=1)


def pieces(stay, tz):
    """A stay "cut at 24:00": (day, seconds on that day)."""
    _, _, arrive, depart, _, _ = stay
    day = day_of(arrive, tz)
    found = []
    while midnight(day, tz) <= depart:
        begins, ends = midnight(day, tz), midnight(day + timedelta(days=1), tz)
        found.append((day, min(depart, ends) - max(arrive, begins)))
        day += timedelta(days=1)
    return found


def left_by_border(day_stays, border, tz):
    """ "With `inner`: on each day, the day-stays in domestic places that have no inner ping on that day are left out,
    if some domestic place has one on that day."
    """
    if border == "any":
        return day_stays
    inners = defaultdict(int)  # inner pings of a domestic place on a day
    heard = defaultdict(int)  # inner pings of all domestic places on a day
    for _, place, arrive, _, _, inner in day_stays:
        if not is_abroad(place):
            inners[day_of(arrive, tz), place] += inner
            heard[day_of(arrive, tz)] += inner
    return [
        stay
        for stay in day_stays
        if is_abroad(stay[1]) or inners[day_of(stay[2], tz), stay[1]] > 0 or heard[day_of(stay[2], tz)] == 0
    ]


def day_span_holds(place, left, min_stay, tz):
    # "on some day of the window, last ping - first ping in that place on that day >= min_stay, whatever lies between
    # (... every ping that `border` left, flicker removal plays no part in it)"
    first, last = {}, {}
    for _, where, arrive, depart, _, _ in left:
        if where == place:
            day = day_of(arrive, tz)
            first[day] = min(arrive, first.get(day, arrive))
            last[day] = max(depart, last.get(day, depart))
    return any(last[day] - first[day] >= min_stay for day in first)


def continuous_holds(place, whole, min_stay):
    # "some stay (stitched, flicker removed) has depart - arrive >= min_stay, also across midnight"
    return any(stay[3] - stay[2] >= min_stay for stay in whole if stay[1] == place)


def cumulative_holds(place, whole, min_stay, tz):
    # "on some day, the stays in that place (stitched, flicker removed, each cut at 24:00, so that a silence across
    # midnight counts for both days) last >= min_stay together"
    seconds = defaultdict(int)
    for stay in whole:
        if stay[1] == place:
            for day, length in pieces(stay, tz):
                seconds[day] += length
    return any(length >= min_stay for length in seconds.values())


def visits(day_stays, as_of, policy=None, corrections=(), tz="Asia/Shanghai", max_silence=MAX_SILENCE):
    """One row per subscriber and place seen; corrections are ``(subscriber, place, from, to)``."""
    rules = {**POLICY, **(policy or {})}
    opens, closes = window(as_of, rules["days"])
    for stay in day_stays:
        if day_of(stay[2], tz) != day_of(stay[3], tz):
            raise ValueError("a stay crosses midnight")  # "`tc.visits` takes day-stays, refuses one that crosses"
    found = []
    for mine in by_subscriber(in_order(day_stays)):
        # "Pings outside the window are dropped first; then `border`, then stitching, then flicker"
        seen = [stay for stay in mine if opens <= day_of(stay[2], tz) <= closes]
        # "removes a subscriber's day-stays in that place on the days `from` to `to` (inclusive) before anything else"
        seen = [
            stay
            for stay in seen
            if not any(
                who == stay[0] and place == stay[1] and since <= day_of(stay[2], tz) <= until
                for who, place, since, until in corrections
            )
        ]
        left = left_by_border(seen, rules["border"], tz)
        whole = stitch(left, max_silence, rules["flicker"])
        days_seen = len({day_of(stay[2], tz) for stay in seen})
        rows = []
        for place in {stay[1] for stay in seen}:
            if is_abroad(place):
                # "visited when it has any ping (from the policy's `abroad_from` date, where it has one: on a card as
                # of an earlier day places abroad are transit ...)"
                visited = rules["abroad_from"] is None or as_of >= rules["abroad_from"]
            elif rules["rule"] == "day_span":
                visited = day_span_holds(place, left, rules["min_stay"], tz)
            elif rules["rule"] == "continuous":
                visited = continuous_holds(place, whole, rules["min_stay"])
            elif rules["rule"] == "cumulative":
                visited = cumulative_holds(place, whole, rules["min_stay"], tz)
            else:
                raise ValueError(rules["rule"])
            here = [stay for stay in seen if stay[1] == place]
            # "`first` and `last` ping's second in the window, `days` (how many days have a ping there; these three
            # count every ping in the window, also left-out and flickering ones)"
            first, last = min(stay[2] for stay in here), max(stay[3] for stay in here)
            days = len({day_of(stay[2], tz) for stay in here})
            # "`longest_s` (its longest stay after stitching and flicker removal, 0 when none is left)"
            longest_s = max((stay[3] - stay[2] for stay in whole if stay[1] == place), default=0)
            rows.append((mine[0][0], place, first, last, days, longest_s, not visited, days_seen))
        found += sorted(rows, key=lambda row: (row[2], bytewise(row[1])))
    return found


# ---------------------------------------------------------------------------------------- 3.6 marks and colours


def risk_in_force(lists, as_of):
    """ "The list in force is the newest dated <= the card's date": `lists` is ``{date: {place: levels}}``."""
    dated = [day for day in lists if day <= as_of]
    return (max(dated), lists[max(dated)]) if dated else (None, None)


def marked(place, levels, marks):
    """A visited city "that has a medium- or high-risk area *as of the card's date*"; "Policy says which levels mark".

    `levels` is ``{place: levels}`` of the list in force.
    """
    # "HKG, MAC, TWN and places abroad are never marked"
    return place.isdigit() and any(level in marks for level in levels.get(place, ()))


def status_holds(since, until, as_of, first=1, last=None):
    """A status from `since` to `until` (None: open), for its days `first` to `last` (None: to its end)."""
    # "A status holds when from <= card's date <= to (null = open)"
    if not (since <= as_of and (until is None or as_of <= until)):
        return False
    # "a policy's "n days" counts the from day as day 1, and the earlier end wins"
    number = (as_of - since).days + 1
    return first <= number and (last is None or number <= last)


def rule_holds(rule, places, as_of, statuses, levels, levels_at_visit):
    """A rule is a dict: `colour`, `if` ("abroad", "places", "risk", "risk_at_visit", "status") and what that needs.

    `places` are the places visited, `statuses` tuples ``(status, from, to)`` of the subscriber.
    """
    if rule["if"] == "abroad":
        return any(is_abroad(place) for place in places)
    if rule["if"] == "places":
        return any(place in rule["places"] for place in places)
    if rule["if"] == "risk":
        return any(level in rule["levels"] for place in places for level in levels.get(place, ()))
    if rule["if"] == "risk_at_visit":
        return any(level in rule["levels"] for place in places for level in levels_at_visit.get(place, ()))
    if rule["if"] == "status":
        return any(
            status in rule["statuses"] and status_holds(since, until, as_of, rule.get("first", 1), rule.get("last"))
            for status, since, until in statuses
        )
    raise ValueError(rule["if"])


def colour(seen, policy, as_of, statuses=(), levels=None, levels_at_visit=None):
    """The colour of one subscriber whose visits and transits are `seen` (rows of `visits`)."""
    places = [row[1] for row in seen if not row[6]]
    holding = [
        rule["colour"]
        for rule in policy.get("colours", ())
        if rule_holds(rule, places, as_of, statuses, levels or {}, levels_at_visit or {})
    ]
    for worst in SEVERITY[:3]:  # "the most severe rule that holds, red > orange > yellow > green"
        if worst in holding:
            return worst
    # "Without a ping in the window the card is `unknown` ... unless a rule for red, orange or yellow holds: never
    # green. With pings but nothing visited it is green with an empty list"
    return "green" if seen else "unknown"


def card(seen, policy, as_of, statuses=(), levels=None, levels_at_visit=None):
    """The colour and the places listed, in order, each with its mark."""
    # "Order of places on a card: by first ping in the window, ties by place code."
    listed = sorted((row for row in seen if not row[6]), key=lambda row: (row[2], bytewise(row[1])))
    marks = policy.get("marks", ())
    shown = [(row[1], marked(row[1], levels or {}, marks)) for row in listed]
    return colour(seen, policy, as_of, statuses, levels, levels_at_visit), shown
