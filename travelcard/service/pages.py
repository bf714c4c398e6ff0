"""The service as pages for people: no script, one style sheet, Chinese and English."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import date
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from starlette.datastructures import FormData

from travelcard.card import COLOUR_WORDS, LANGUAGES, Card, place_name
from travelcard.errors import InputError
from travelcard.schema import zone
from travelcard.service import access, desk, lookups, people
from travelcard.service.access import Session
from travelcard.service.api import Here, client_of, context_of
from travelcard.service.context import Context
from travelcard.service.refusals import Refused
from travelcard.service.signed import svg
from travelcard.service.vault import new_token

__all__ = ["refusal", "router"]

HUES = {"green": "#0a6b35", "yellow": "#7a5a00", "orange": "#9a3b00", "red": "#b00020", "unknown": "#444444"}
_templates = Environment(
    loader=PackageLoader("travelcard.service"), autoescape=select_autoescape(default=True), undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_STYLE = (files("travelcard.service") / "static" / "style.css").read_bytes()
FILLS = HUES | {"yellow": "#f2b800"}  # of an arrow, which is no text and holds none
router = APIRouter(include_in_schema=False)


def language_of(request: Request) -> str:
    """What was chosen, or what the browser prefers, Chinese otherwise."""
    chosen = request.query_params.get("lang") or request.cookies.get("lang")
    if chosen in LANGUAGES:
        return str(chosen)
    return "en" if request.headers.get("accept-language", "zh").lower().startswith("en") else "zh"


def page(request: Request, name: str, /, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, in the reader's language."""
    language = language_of(request)

    def t(zh: str, en: str) -> str:
        return zh if language == "zh" else en

    context, other = context_of(request), "en" if language == "zh" else "zh"
    here = request.url if request.method == "GET" else request.url.replace(path="/sign-in", query="")
    here = here.include_query_params(lang=other)  # of what was sent there is no page to come back to
    form = request.cookies.get("form") or new_token()
    text = _templates.get_template(name).render(
        t=t, language=language, other=other, elsewhere=f"{here.path}?{here.query}",
        colours=COLOUR_WORDS[language], form=context.vault.key("form", form), once=new_token()[:32],
        when=lambda moment: f"{moment.astimezone(zone(context.tz)):%Y-%m-%d %H:%M}", **values,
    )  # fmt: skip
    answer = HTMLResponse(text, status, headers={"content-language": language})
    for cookie, value in (("lang", language), ("form", form)):
        if request.cookies.get(cookie) != value:
            _remember(context, answer, cookie, value)
    return answer


def refusal(request: Request, refused: Refused) -> Response:
    """Why there is nothing, and what to do."""
    text, advice = refused.text(language_of(request))
    answer = page(request, "refused.html", refused.status, reason=refused.reason, text=text, advice=advice)
    if refused.wait is not None:
        answer.headers["retry-after"] = str(refused.wait)
    return answer


def _name(context: Context, cookie: str) -> str:
    """A cookie under ``__Host-`` is taken from this very host only, and over TLS."""
    return f"__Host-{cookie}" if context.settings.secure and cookie not in ("lang", "form") else cookie


def _remember(context: Context, answer: Response, cookie: str, value: str, seconds: int | None = None) -> None:
    answer.set_cookie(
        _name(context, cookie), value, max_age=seconds, path="/", httponly=True, samesite="strict",
        secure=context.settings.secure,
    )  # fmt: skip


def _signed_in(request: Request, context: Here) -> Session:
    token = request.cookies.get(_name(context, "session"))
    return access.session_of(context, token, client_of(request)[0])


async def _filled(request: Request, context: Here) -> FormData:
    """A form of ours: sent from a page of ours by a browser that got it from here."""
    cookie, origin = request.cookies.get("form", ""), request.headers.get("sec-fetch-site", "same-origin")
    form = await request.form(max_files=0, max_fields=30)
    given = str(form.get("form", ""))
    if origin not in ("same-origin", "none") or not hmac.compare_digest(given, context.vault.key("form", cookie)):
        raise Refused("no_form")
    return form


Mine = Annotated[Session, Depends(_signed_in)]
Filled = Annotated[FormData, Depends(_filled)]


def _text(form: FormData, name: str, most: int = 2000) -> str:
    value = form.get(name, "")
    if not isinstance(value, str) or len(value) > most or "\0" in value:
        raise Refused("bad_input", about=name)
    return value.strip()


def _day(form: FormData, name: str) -> date:
    try:
        return date.fromisoformat(_text(form, name, 10))
    except ValueError as error:
        raise Refused("bad_input", about=name) from error


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, 303)


# ---------------------------------------------------------------------------------------------------- whose number


@router.get("/")
def home(request: Request) -> Response:
    return page(request, "home.html")


@router.get("/static/style.css")
def style() -> Response:
    return Response(_STYLE, media_type="text/css", headers={"cache-control": "max-age=86400"})


@router.get("/sign-in")
def number_form(request: Request, next: str = "card") -> Response:
    return page(request, "number.html", next="health" if next == "health" else "card")


@router.post("/code")
def send_code(request: Request, context: Here, form: Filled) -> Response:
    """The number goes into a sealed cookie: it is on no page."""
    number = _text(form, "number", 40)
    access.send_code(context, number, client_of(request)[1])
    answer = page(request, "code.html", next="health" if form.get("next") == "health" else "card")
    _remember(context, answer, "asked", context.vault.seal(number, "cookie").hex(), 600)
    return answer


@router.post("/sign-in")
def sign_in(request: Request, context: Here, form: Filled) -> Response:
    try:
        sealed = bytes.fromhex(request.cookies.get(_name(context, "asked"), ""))
        number = context.vault.open(sealed, "cookie")
    except (InputError, ValueError) as error:
        raise Refused("session") from error
    token, _ = access.sign_in(context, number, _text(form, "code", 10), *client_of(request), agreed="agreed" in form)
    answer = _to("/health" if form.get("next") == "health" else "/card")
    _remember(context, answer, "session", token, context.settings.token_minutes * 60)
    answer.delete_cookie(_name(context, "asked"), path="/", secure=context.settings.secure, httponly=True)
    return answer


@router.post("/sign-out")
def sign_out(context: Here, session: Mine, form: Filled) -> Response:
    access.sign_out(context, session)
    answer = _to("/")
    answer.delete_cookie(_name(context, "session"), path="/", secure=context.settings.secure, httponly=True)
    return answer


# ---------------------------------------------------------------------------------------------------- the travel card


def _face(request: Request, context: Context, card: Card) -> dict[str, Any]:
    """The card as people know it: its lines, cut where the arrow stands."""
    lines = card.text(language_of(request), now=context.clock(), places=context.places).split("\n")
    cut = 4 if card.policy.form == "card" and card.colour != "unknown" else 3 if card.policy.form == "card" else 0
    return {"card": card, "head": lines[:cut], "lines": lines[cut:], "fill": FILLS[card.colour]}


@router.get("/card")
def card(request: Request, context: Here, session: Mine) -> Response:
    found = lookups.mine(context, session)
    context.audit.put(session.number.key, "self", "card", context.clock()).result()
    link = str(request.url_for("scan", token=lookups.share(context, session.number)))
    code = Markup(svg(link, "#000"))
    return page(request, "card.html", **_face(request, context, found), code=code)


@router.get("/scan/{token}", name="scan")
def scan(request: Request, context: Here, token: Annotated[str, Path(max_length=1000)]) -> Response:
    """What a checkpoint sees of the card that somebody shows."""
    _, found = lookups.scanned(context, token, "a checkpoint")
    return page(request, "scan.html", **_face(request, context, found))


@router.get("/why")
def why(request: Request, context: Here, session: Mine) -> Response:
    found = lookups.evidence_of(context, session)
    language = language_of(request)
    return page(request, "why.html", reasons=found.card.why(language, places=context.places), text=found.text(language))


@router.get("/history")
def earlier(request: Request, context: Here, session: Mine) -> Response:
    found = lookups.history_of(context, session)
    return page(request, "history.html", text=found.text(language_of(request)))


def _places(request: Request, context: Context, session: Session) -> list[tuple[str, str]]:
    card_ = lookups.mine(context, session)
    language = language_of(request)
    return [(v.place, place_name(v.place, v.name, language, context.places)) for v in card_.visits]


@router.get("/correct")
def correction_form(request: Request, context: Here, session: Mine) -> Response:
    asked = lookups.corrections_of(context, session.number)
    return page(request, "correct.html", places=_places(request, context, session), asked=asked)


@router.post("/correct")
def correct(context: Here, session: Mine, form: Filled) -> Response:
    days, why_ = (_day(form, "from"), _day(form, "to")), _text(form, "reason")
    lookups.ask_for_correction(context, session, _text(form, "place", 40), *days, why_)
    return _to("/correct")


@router.get("/seen")
def seen(request: Request, context: Here, session: Mine) -> Response:
    return page(request, "seen.html", rows=lookups.seen_by(context, people.keys_of(context, session)))


@router.get("/erase")
def erase_form(request: Request, session: Mine) -> Response:
    return page(request, "erase.html", done=None)


@router.post("/erase")
def erase(request: Request, context: Here, session: Mine, form: Filled) -> Response:
    if "sure" not in form:
        raise Refused("bad_input", about="sure")
    return page(request, "erase.html", done=lookups.erase(context, session)["done"])


# ---------------------------------------------------------------------------------------------------- the health code


def _ward(context: Context, session: Session, ward: str | None) -> str:
    return str(people.person_of(context, session, ward or None).id)


@router.get("/health")
def health(request: Request, context: Here, session: Mine, ward: str | None = None) -> Response:
    try:
        person = _ward(context, session, ward)
    except Refused as refused:
        if refused.reason != "no_application":
            raise
        return _to("/health/apply")
    found = people.code_of(context, person)
    context.audit.put(person, "self", "health code", context.clock()).result()
    language, card_ = language_of(request), found.card
    drawn = Markup(svg(people.ticket(context, found), HUES[card_.colour]))
    names = [place_name(v.place, v.name, language, context.places) for v in card_.visits]
    return page(
        request, "health.html", card=card_, reasons=card_.why(language, places=context.places), code=drawn,
        name=people.hidden_name(found.name), identity=people.hidden_identity(found.identity), since=found.since,
        now=context.clock(), names=names, ward=ward or "",
        wards=people.wards_of(context, person) if not ward else [],
    )  # fmt: skip


def _said(form: Mapping[str, Any], trips: str) -> people.Declaration:
    return people.Declaration("fever" in form, "symptoms" in form, "contact" in form, trips)


@router.get("/health/apply")
def application_form(request: Request, session: Mine, ward: str | None = None) -> Response:
    return page(request, "apply.html", ward=ward or "")


@router.post("/health/apply")
def apply(context: Here, session: Mine, form: Filled) -> Response:
    person = people.apply(
        context, session, name=_text(form, "name", 100), identity=_text(form, "identity", 18),
        said=_said(form, _text(form, "trips", 500)), once=_text(form, "once", 64), agreed="agreed" in form,
        ward="ward" in form,
    )  # fmt: skip
    return _to(f"/health?ward={person}" if "ward" in form else "/health")


@router.get("/health/update")
def update_form(request: Request, context: Here, session: Mine, ward: str | None = None) -> Response:
    _ward(context, session, ward)
    return page(request, "update.html", ward=ward or "")


@router.post("/health/update")
def update(context: Here, session: Mine, form: Filled) -> Response:
    ward = _text(form, "ward", 32)
    said = _said(form, _text(form, "trips", 500))
    people.declare(context, _ward(context, session, ward), said, _text(form, "once", 64))
    return _to(f"/health?ward={ward}" if ward else "/health")


@router.get("/health/appeal")
def appeal_form(request: Request, context: Here, session: Mine, ward: str | None = None) -> Response:
    rows = people.appeals_of(context, _ward(context, session, ward))
    return page(request, "appeal.html", rows=rows, ward=ward or "")


@router.post("/health/appeal")
def appeal(context: Here, session: Mine, form: Filled) -> Response:
    ward = _text(form, "ward", 32)
    people.appeal(context, _ward(context, session, ward), _text(form, "text"), _text(form, "once", 64))
    return _to(f"/health/appeal?ward={ward}" if ward else "/health/appeal")


@router.get("/health/history")
def colours(request: Request, context: Here, session: Mine, ward: str | None = None) -> Response:
    rows = people.history_of_colours(context, _ward(context, session, ward))
    return page(request, "colours.html", rows=rows)


# ---------------------------------------------------------------------------------------------------- operators


def _operator(role: str) -> Any:
    def who(request: Request, context: Here) -> str:
        return desk.operator_of(context, request.cookies.get(_name(context, "desk")), role)

    return Annotated[str, Depends(who)]


@router.get("/desk/sign-in")
def desk_form(request: Request) -> Response:
    return page(request, "desk_sign_in.html")


@router.post("/desk/sign-in")
def desk_sign_in(context: Here, form: Filled) -> Response:
    token = _text(form, "token", 100)
    answer = _to("/desk")
    for role in desk.ROLES:
        try:
            desk.operator_of(context, token, role)
        except Refused as refused:
            if refused.reason == "session":
                raise
    _remember(context, answer, "desk", token, 8 * 3600)
    return answer


@router.get("/desk")
def desk_page(request: Request, context: Here, who: _operator("corrections"), _: _operator("health")) -> Response:  # type: ignore[valid-type]
    about = sorted({word for rule in context.policy.colours for word in rule.statuses})
    rows = desk.waiting(context, who)
    names = {row["place"]: context.places.printed(row["place"]) for row in rows["corrections"]}
    return page(request, "desk.html", rows=rows, names=names, about=about, who=who)


@router.post("/desk/corrections/{name}")
def decide_correction(context: Here, name: str, form: Filled, who: _operator("corrections")) -> Response:  # type: ignore[valid-type]
    desk.decide_correction(context, name, who, _text(form, "note"), approved=form.get("decision") == "approve")
    return _to("/desk")


@router.post("/desk/appeals/{name}")
def decide_appeal(context: Here, name: str, form: Filled, who: _operator("health")) -> Response:  # type: ignore[valid-type]
    desk.decide_appeal(context, name, who, _text(form, "note"), approved=form.get("decision") == "approve")
    return _to("/desk")


@router.post("/desk/statuses")
def enter_status(context: Here, form: Filled, who: _operator("health")) -> Response:  # type: ignore[valid-type]
    last = _day(form, "to") if _text(form, "to", 10) else None
    status, source = _text(form, "status", 40), _text(form, "source", 200)
    desk.enter_status(context, who, _text(form, "identity", 18), status, _day(form, "from"), last, source)
    return _to("/desk")
