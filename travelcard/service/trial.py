"""The service over a demo's store, on this machine alone, with invented people whom it knows."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from stdnum.cn import ric

from travelcard.config import Config
from travelcard.service.context import Context
from travelcard.service.desk import ROLES, add_operator
from travelcard.service.people import known_person
from travelcard.service.serve import serve as begin

__all__ = ["serve"]

NAMES = ("张一", "王二", "李三")  # nobody: their identity numbers are made up, with a check digit that is right
SECTION = """
[service]
today = {today}
sms = "terminal"
secret_file = "secret"
secure = false  # plain http, on this machine alone
"""


def identities() -> list[str]:
    heads = [f"110101199{n}0101{n:02}1" for n in range(len(NAMES))]
    return [head + ric.calc_check_digit(head + "0") for head in heads]


def serve(config: Path, as_of: date, numbers: Mapping[str, int], port: int) -> None:
    """Serve a demo, and say what to try."""
    secret = config.parent / "secret"
    if not secret.exists():
        secret.touch(0o600)
        secret.write_text(secrets.token_hex(32))
    if "[service]" not in config.read_text(encoding="utf-8"):
        with config.open("a", encoding="utf-8") as file:
            file.write(SECTION.format(today=as_of))
    context = Context.of(Config.read(config))
    for name, identity in zip(NAMES, identities(), strict=True):
        known_person(context, name, identity)
    token = add_operator(context, "demo", list(ROLES))
    context.close()
    lines = [f"  {number}  a {kind.replace('_', ' ')}" for kind, number in numbers.items()]
    people = [f"  {name}  {identity}" for name, identity in zip(NAMES, identities(), strict=True)]
    print(  # noqa: T201  it is what the command is asked for
        f"\nhttp://127.0.0.1:{port}  (Ctrl-C ends it; the codes that would be sent by SMS are shown here)\n\n"
        "Numbers to try:\n" + "\n".join(lines) + "\n\nPeople who can apply for a health code:\n" + "\n".join(people) +
        f"\n\nThe operators' side is http://127.0.0.1:{port}/desk/sign-in, with the token\n  {token}\n",
        flush=True,
    )  # fmt: skip
    begin(config, host="127.0.0.1", port=port, processes=1, certificate=None, key=None)
