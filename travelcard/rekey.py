"""Another key in the place of the one that a store's pseudonyms were made with."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from travelcard.erasure import FORGETTING
from travelcard.errors import InputError
from travelcard.late import compute as pc
from travelcard.ledger import Step, append, row_of, today
from travelcard.pseudonyms import Pseudonyms
from travelcard.schema import CARDS, CORRECTIONS, STAYS
from travelcard.store import Store, Written

__all__ = ["rekey"]


def rekey(store: Store, old: Pseudonyms) -> Step:
    """Give every subscriber of a store the pseudonym that the store's key makes, in the place of the `old` key's.

    Each table is one transaction, whose files need the room of the table once more until it is done. A process that is
    killed between them leaves a store of both keys, which nobody writes and which answers for the tables that are of
    its reader's key; to run it again with both keys ends it. What is under the old key is then gone, earlier versions
    included. A store that is of the new key already is left as it is.
    """
    began, started = time.perf_counter(), datetime.now(UTC)
    if store.key is None or not store.layout.pseudonyms:
        raise InputError(f"{store.root} holds no pseudonyms, or its new key is not given")
    new = store.key
    if store.keys not in ((old.id,), (old.id, new.id), (new.id,)) or new.id == old.id:
        raise InputError(f"{store.root} is of {' and '.join(store.keys)}: that is not from {old.id} to {new.id}")
    rows = 0
    if store.keys == (new.id,):
        return Step("rekey", today(store), time.perf_counter() - began, {"rows": rows, "key": new.id})
    with store.writing("a rekey"):
        if store.note(FORGETTING) is not None:
            raise InputError("somebody's forgetting did not end: run `travelcard expire` with the old key first")
        store.put_keys(old.id, new.id)
        for table in (STAYS, CARDS, CORRECTIONS):
            swaps: dict[str, Written] = {}
            for values, path in store.files(table.name):
                if store.key_of(table.name, path) == new.id:
                    continue
                held = store.read(table.name, [path])
                ids = held["subscriber"].combine_chunks()
                held = held.set_column(0, held.schema.field(0), new.of(old.back(ids)))
                if table.partition:  # in order by the new names; a subscriber's own rows stay in theirs
                    held = held.take(pc.sort_indices(held["subscriber"]))
                swaps[path] = store.rewrite(table, values, path, held)
                rows += len(held)
            if swaps:
                store.swap(table, swaps)
        store.vacuum()
        store.trim()
        step = Step("rekey", today(store), time.perf_counter() - began, {"rows": rows, "key": new.id})
        append(store, row_of(store, step, started, settings={"keys": [old.id, new.id]}))
        store.put_keys(new.id)  # the last: what is not on record is not done
    return step
