"""The service under load: card reads by wrk on loopback, at a load it carries and at more; a publish in the midst.

``python -m benchmarks.service --cards 1e7``. Needs wrk. One process a core; wrk takes its part of the same cores. Every
request is another number's: a token that is looked up, a card that is read, a look that is put on record.
"""

from __future__ import annotations

import argparse
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from travelcard.bench.data import made
from travelcard.bench.measure import CACHE, CAVEATS, cores, removed, versions

LUA = """
local heads, at, counts = {}, 0, {}
for line in io.lines("%s") do heads[#heads + 1] = line end
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() ok, busy, other = 0, 0, 0; at = math.random(#heads) end
if %d > 0 then function delay() return math.random(0, 2 * %d) end end
function request()
  at = at %% #heads + 1
  return wrk.format("GET", "/api/v1/card", {["authorization"] = "Bearer " .. heads[at], ["user-agent"] = "wrk"})
end
function response(status)
  if status == 200 then ok = ok + 1 elseif status == 503 then busy = busy + 1 else other = other + 1 end
end
function done(summary, latency)
  local all = {0, 0, 0}
  for _, t in ipairs(threads) do
    all = {all[1] + t:get("ok"), all[2] + t:get("busy"), all[3] + t:get("other")}
  end
  local e = summary.errors
  print(string.format("TOLD %%d %%d %%d %%d %%d %%f %%f %%f", all[1], all[2], all[3], e.timeout,
    e.connect + e.read + e.write, summary.duration / 1e6, latency:percentile(50), latency:percentile(99)))
end
"""


def child(config: str, tokens: str, most: int) -> None:
    """Sign in with so many random numbers, past the SMS; writes their tokens, prints the newest date of cards."""
    from datetime import UTC, datetime, timedelta

    import numpy as np
    from sqlalchemy import insert

    from travelcard.config import Config
    from travelcard.service import Context
    from travelcard.service.database import sessions
    from travelcard.service.vault import fingerprint, new_token

    context = Context.of(Config.read(Path(config)))
    paths = [path for _, path in context.store.files("cards")]
    numbers = context.store.read("cards", paths, columns=["subscriber"])["subscriber"].to_numpy()
    now, rows, lines = datetime.now(UTC), [], []
    for number in np.random.default_rng(1).choice(numbers, most).tolist():
        mine, token = context.number(str(number)), new_token()
        rows.append({
            "id": fingerprint(token), "number_key": mine.key, "bound": context.vault.key("client", "wrk"), "begun": now,
            "number": context.vault.seal(f"{mine.dialled} {mine.subscriber}", "sessions.number"),
            "expires": now + timedelta(days=1),
        })  # fmt: skip
        lines.append(token)
    with context.engine.begin() as connection:
        connection.execute(insert(sessions), rows)
    Path(tokens).write_text("\n".join(lines) + "\n")
    print(context.store.days("cards")[-1], len(numbers))
    context.close()


def load(url: str, work: Path, connections: int, seconds: int, pause: int = 0) -> str:
    """What wrk found, in a line; `pause` is how many ms a connection waits after an answer."""
    script = work / "card.lua"
    script.write_text(LUA % (work / "tokens", pause, pause))
    words = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s", str(script), url]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    ok, busy, other, late, failed, took, p50, p99 = map(float, re.search(r"TOLD (.*)", out)[1].split())
    who = f"{connections:>4} connections" + (f", {pause} ms between" if pause else "")
    return (
        f"{who}: {ok / took:,.0f} cards/s, p50 {p50 / 1000:.1f} ms, p99 {p99 / 1000:.1f} ms; "
        f"503 {busy / took:,.0f} times/s, {other:.0f} other answers, {late:.0f} later than 2 s, {failed:.0f} failed"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--cards", type=float, default=1e5)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--database", default="sqlite:///service.db")
    parser.add_argument("--processes", type=int, default=cores())
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed")
        return 1
    print(f"{CAVEATS}\n{versions()}\n", flush=True)
    n = int(options.cards)
    settings = {"subscribers": n, "pings_per_subscriber": 24, "days": 3, "files": 4, "seed": 1}
    folder = made("store", CACHE / f"shifted-cards-{n}-3", cards=True, **settings).resolve()
    work = (CACHE / "service").resolve()
    removed(work)
    work.mkdir(parents=True)
    config, tokens = work / "travelcard.toml", work / "tokens"
    (work / "secret").write_text(secrets.token_hex(32))
    text = (folder / "travelcard.toml").read_text()
    for key in ("cells.parquet", "pings/", "risk/"):
        text = text.replace(f'"{key}', f'"{folder}/{key}')
    text = re.sub(r"(?m)^store = .*$", f'store = "{folder}/store"', text)
    section = '[service]\nsecure = false\nsecret_file = "secret"\nmax_age = 36500\n'
    config.write_text(f'{text}\n{section}database = "{options.database}"\n')
    words = [sys.executable, "-m", "benchmarks.service", "--child", str(config), str(tokens), "20000"]
    newest, held = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "travelcard", "serve", "--config", str(config), "--port", str(port)]
    server = subprocess.Popen([*words, "--processes", str(options.processes)])
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        time.sleep(3)
        print(f"{int(held):,} cards, {options.processes} processes, {options.database.split(':')[0]}", flush=True)
        load(url, work, 16, 5)  # files are opened, and not counted
        # What it carries; twice that, offered by people who wait a little before they press again; and by machines.
        for connections, pause in ((16, 0), (32, 0), (700, 300), (600, 0)):
            print(load(url, work, connections, options.seconds, pause), flush=True)
        again = subprocess.Popen([sys.executable, "-m", "travelcard", "cards", newest, "--config", str(config)],
                                 stdout=subprocess.DEVNULL)  # fmt: skip
        began = time.perf_counter()
        said = load(url, work, 16, max(options.seconds, 30))
        code = again.wait()
        print(
            f"while the cards as of {newest} were made anew (exit {code}, {time.perf_counter() - began:.0f} s): {said}"
        )
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        removed(work)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        sys.exit(main())
