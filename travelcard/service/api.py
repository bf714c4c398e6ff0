"""The service as JSON, under /api/v1: what an app, a checkpoint and the operator's own systems ask."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from travelcard.card import LANGUAGES
from travelcard.service import access, desk, lookups, people
from travelcard.service.access import Session
from travelcard.service.context import Context
from travelcard.service.refusals import STATUS, Refused

__all__ = ["router"]

Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]*$")
]
Long = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000, pattern=r"^[^\x00]*$")]
Once = Annotated[str, StringConstraints(min_length=8, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Id = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


class Problem(BaseModel):
    """Why there is no answer: a word for programs, and in both languages what holds and what to do."""

    reason: str
    text: dict[str, str]
    advice: dict[str, str]
    about: str = ""


class CodeRequest(_Body):
    number: Text = Field(description="A phone number; another country's with its code.", examples=["13800001234"])


class CodeSent(BaseModel):
    expires_in: int = Field(description="Seconds for which the code is good.")


class SignIn(_Body):
    number: Text
    code: Annotated[str, StringConstraints(pattern=r"^[0-9]{6}$")]
    agreed: bool = Field(description="Consent: the operator may look up where this number was in the card's window.")


class Token(BaseModel):
    token: str
    expires_in: int


class CorrectionRequest(_Body):
    place: Text = Field(description="The code of a place on the card.")
    first: date = Field(alias="from")
    last: date = Field(alias="to")
    reason: Long


class Said(_Body):
    fever: bool = False
    symptoms: bool = False
    contact: bool = Field(default=False, description="With somebody who is infected.")
    trips: Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")] = ""

    def plain(self) -> people.Declaration:
        return people.Declaration(self.fever, self.symptoms, self.contact, self.trips)


class Application(_Body):
    name: Text
    identity: Annotated[str, StringConstraints(pattern=r"^[0-9]{17}[0-9Xx]$")] = Field(
        description="GB 11643, 18 characters."
    )
    declaration: Said
    agreed: bool
    once: Once = Field(description="A word of your own: the same application sent again changes nothing.")
    ward: bool = Field(default=False, description="For a child or an elder, whose guardian this number's person is.")


class Update(_Body):
    declaration: Said
    once: Once


class AppealRequest(_Body):
    text: Long
    once: Once


class Face(_Body):
    evidence: Annotated[str, StringConstraints(max_length=50_000)]


class Decision(_Body):
    approved: bool
    note: Long


class StatusEntry(_Body):
    identity: Annotated[str, StringConstraints(pattern=r"^[0-9]{17}[0-9Xx]$")]
    status: Text
    first: date = Field(alias="from")
    last: date | None = Field(default=None, alias="to")
    source: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00]*$")
    ]


class End(_Body):
    last: date = Field(alias="to")


class Made(BaseModel):
    id: str


_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": ", ".join(r for r, s in STATUS.items() if s == status)}
    for status in sorted({*STATUS.values(), 400} - {405, 410})
}
router = APIRouter(prefix="/api/v1", responses=_REFUSALS)
_bearer = HTTPBearer(auto_error=False, description="A token of POST /api/v1/tokens.")
_operator = HTTPBearer(auto_error=False, scheme_name="operator", description="A token of `travelcard operator`.")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
OperatorBearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_operator)]


def context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


def client_of(request: Request) -> tuple[str, str]:
    """(what a token is bound to, the address): the client's own word for itself, and where it comes from."""
    return request.headers.get("user-agent", ""), "" if request.client is None else request.client.host


async def _here(request: Request) -> Context:
    return context_of(request)  # in the loop: what is not a coroutine gets a thread, which costs more than it does


async def _client(request: Request) -> tuple[str, str]:
    return client_of(request)


Here = Annotated[Context, Depends(_here)]
Client = Annotated[tuple[str, str], Depends(_client)]


def _signed_in(context: Here, client: Client, bearer: Bearer) -> Session:
    return access.session_of(context, None if bearer is None else bearer.credentials, client[0])


Mine = Annotated[Session, Depends(_signed_in)]


def _as(role: str) -> Any:
    def who(context: Here, bearer: OperatorBearer) -> str:
        return desk.operator_of(context, None if bearer is None else bearer.credentials, role)

    return Annotated[str, Depends(who)]


def problem(refused: Refused) -> dict[str, Any]:
    """A refusal as JSON."""
    texts = {language: refused.text(language) for language in LANGUAGES}
    return {
        "reason": refused.reason,
        "text": {language: text for language, (text, _) in texts.items()},
        "advice": {language: advice for language, (_, advice) in texts.items()},
        "about": refused.about,
    }


# ---------------------------------------------------------------------------------------------------- whose number


@router.post("/codes", status_code=202)
def send_code(asked: CodeRequest, context: Here, client: Client) -> CodeSent:
    """Send a code by SMS. The answer is the same for every number."""
    return CodeSent(expires_in=access.send_code(context, asked.number, client[1]))


@router.post("/tokens", status_code=201)
def sign_in(asked: SignIn, context: Here, client: Client) -> Token:
    """A token, for the code that was sent."""
    token, until = access.sign_in(context, asked.number, asked.code, *client, agreed=asked.agreed)
    return Token(token=token, expires_in=int((until - context.clock()).total_seconds()))


@router.delete("/tokens", status_code=204)
def sign_out(context: Here, session: Mine) -> None:
    """Revoke the token."""
    access.sign_out(context, session)


# ---------------------------------------------------------------------------------------------------- the travel card


@router.get("/card", openapi_extra={"security": [{"HTTPBearer": []}]})
async def card(request: Request) -> Response:
    """The travel card, as `travelcard card --json` has it. A refusal says which reason holds."""
    # What is asked most often goes without dependencies and threads: they take as long as the look-up, a millisecond.
    context, client = context_of(request), client_of(request)
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    session = access.session_of(context, token if kind.lower() == "bearer" else None, client[0])
    found = lookups.mine(context, session)
    await asyncio.wrap_future(context.audit.put(session.number.key, "self", "card", context.clock()))
    return JSONResponse(found.as_dict(places=context.places))


@router.get("/card/why")
def why(context: Here, session: Mine) -> dict[str, Any]:
    """The evidence: stays, transit, rules, corrections, as `travelcard explain --json` has it."""
    return lookups.evidence_of(context, session).as_dict()


@router.get("/cards")
def earlier(context: Here, session: Mine) -> dict[str, Any]:
    """The cards of all dates that are kept, and why each differs from the one before."""
    return lookups.history_of(context, session).as_dict()


@router.get("/card/qr")
def share(context: Here, session: Mine) -> Token:
    """A token for a QR code that a checkpoint scans: GET /api/v1/scans/TOKEN shows the same card, for 90 seconds."""
    lookups.mine(context, session)
    return Token(token=lookups.share(context, session.number), expires_in=90)


@router.get("/scans/{token}", responses={410: {"model": Problem, "description": "scan"}})
def scan(token: Annotated[str, Path(max_length=1000)], context: Here) -> dict[str, Any]:
    """The card behind a scanned code. Who shows it sees that it was looked at."""
    _, found = lookups.scanned(context, token, "a checkpoint")
    return found.as_dict(places=context.places)


@router.post("/corrections", status_code=201)
def ask_for_correction(asked: CorrectionRequest, context: Here, session: Mine) -> Made:
    """Ask to have a place taken off the card. An operator decides."""
    made = lookups.ask_for_correction(context, session, asked.place, asked.first, asked.last, asked.reason)
    return Made(id=made["id"])


@router.get("/corrections")
def corrections(context: Here, session: Mine) -> list[dict[str, Any]]:
    """What was asked for, and what came of it."""
    return lookups.corrections_of(context, session.number)


@router.get("/seen")
def seen(context: Here, session: Mine) -> list[dict[str, Any]]:
    """Who looked at this number's data, and when."""
    return lookups.seen_by(context, people.keys_of(context, session))


@router.delete("/me")
def erase(context: Here, session: Mine) -> dict[str, Any]:
    """Delete all data of this number, here and in the store. `done` is false while a night is being run."""
    return lookups.erase(context, session)


# ---------------------------------------------------------------------------------------------------- the health code


@router.post("/health/applications", status_code=201)
def apply(asked: Application, context: Here, session: Mine) -> Made:
    """Apply for a health code; with a further number of one's own, for the same code."""
    person = people.apply(
        context, session, name=asked.name, identity=asked.identity, said=asked.declaration.plain(), once=asked.once,
        agreed=asked.agreed, ward=asked.ward,
    )  # fmt: skip
    return Made(id=person)


@router.post("/health/face", status_code=204)
def face(asked: Face, context: Here, session: Mine) -> None:
    """The second check, where one is asked for."""
    people.face_checked(context, people.person_of(context, session).id, asked.evidence)


@router.get("/health/wards")
def wards(context: Here, session: Mine) -> list[dict[str, str]]:
    """For whom this number's person has applied."""
    return people.wards_of(context, people.person_of(context, session).id)


Ward = Annotated[str | None, Field(pattern=r"^[0-9a-f]{32}$")]


@router.get("/health/code")
def code(context: Here, session: Mine, ward: Ward = None) -> dict[str, Any]:
    """The health code now: colour, reasons, advice, and the token that its QR code holds."""
    found = people.code_of(context, people.person_of(context, session, ward).id)
    context.audit.put(found.person, "self", "health code", context.clock()).result()
    told = found.card.as_dict(places=context.places)
    del told["subscriber"]
    return {
        **told, "name": people.hidden_name(found.name), "identity": people.hidden_identity(found.identity),
        "since": found.since, "token": people.ticket(context, found),
    }  # fmt: skip


@router.put("/health/declaration", status_code=204)
def declare(asked: Update, context: Here, session: Mine, ward: Ward = None) -> None:
    """Say how it is today."""
    people.declare(context, people.person_of(context, session, ward).id, asked.declaration.plain(), asked.once)


@router.get("/health/history")
def colours(context: Here, session: Mine, ward: Ward = None) -> list[dict[str, Any]]:
    """The colours on record, newest first, each with the rules that it rests on."""
    return people.history_of_colours(context, people.person_of(context, session, ward).id)


@router.post("/health/appeals", status_code=201)
def appeal(asked: AppealRequest, context: Here, session: Mine, ward: Ward = None) -> Made:
    """Say that a colour is wrong. An operator decides."""
    person = people.person_of(context, session, ward).id
    return Made(id=people.appeal(context, person, asked.text, asked.once))


@router.get("/health/appeals")
def appeals(context: Here, session: Mine, ward: Ward = None) -> list[dict[str, Any]]:
    """Appeals, and what came of them."""
    return people.appeals_of(context, people.person_of(context, session, ward).id)


@router.get("/key")
def key(context: Here) -> dict[str, Literal["EdDSA"] | str]:
    """The public key that verifies what a QR code holds."""
    return {"algorithm": "EdDSA", "pem": context.vault.public}


# ---------------------------------------------------------------------------------------------------- operators


@router.get("/desk/requests")
def waiting(context: Here, who: _as("corrections"), _: _as("health")) -> dict[str, Any]:  # type: ignore[valid-type]
    """Corrections and appeals that nobody has decided. For who has the roles `corrections` and `health`."""
    return desk.waiting(context, who)


@router.post("/desk/corrections/{name}", status_code=204)
def decide_correction(name: Id, asked: Decision, context: Here, who: _as("corrections")) -> None:  # type: ignore[valid-type]
    """Approve or refuse a correction."""
    desk.decide_correction(context, name, who, asked.note, approved=asked.approved)


@router.post("/desk/appeals/{name}", status_code=204)
def decide_appeal(name: Id, asked: Decision, context: Here, who: _as("health")) -> None:  # type: ignore[valid-type]
    """Approve or refuse an appeal; an approved one ends the statuses behind the colour."""
    desk.decide_appeal(context, name, who, asked.note, approved=asked.approved)


@router.post("/desk/statuses", status_code=201)
def enter_status(asked: StatusEntry, context: Here, who: _as("health")) -> Made:  # type: ignore[valid-type]
    """Put a person on the status list, with the source."""
    name = desk.enter_status(context, who, asked.identity, asked.status, asked.first, asked.last, asked.source)
    return Made(id=name)


@router.post("/desk/statuses/{name}", status_code=204)
def end_status(name: Id, asked: End, context: Here, who: _as("health")) -> None:  # type: ignore[valid-type]
    """Say on which day a status ends."""
    desk.end_status(context, who, name, asked.last)


@router.get("/desk/codes")
def claimed(context: Here, _: _as("watch")) -> list[dict[str, Any]]:  # type: ignore[valid-type]
    """Codes sent and claimed by the hour: a pumping attack shows."""
    return access.claimed(context)
