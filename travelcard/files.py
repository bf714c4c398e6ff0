"""The files that a day's pings are in: here, or objects of an object store."""

from __future__ import annotations

import glob
import os
import re
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

from travelcard.errors import InputError, one_line
from travelcard.late import fs
from travelcard.late import pyarrow as pa

__all__ = ["bytes_of", "files_of", "filesystem_of", "remote"]


def files_of(pattern: str | Path, day: date | None = None) -> list[str]:
    """The files of a pattern with `*` and `{day}`, sorted; none is an `InputError` that names the pattern."""
    text = _dated(pattern, day)
    paths = _objects(text) if remote(text) else _local(text)
    if not paths:
        raise InputError(f"no file for {day or 'these pings'}: nothing matches {text}")
    return sorted(paths)


def bytes_of(pattern: str | Path, day: date | None = None) -> int:
    """How long the files of a pattern are together; objects of an object store are not asked."""
    text = _dated(pattern, day)
    try:
        return 0 if remote(text) else sum(map(os.path.getsize, _local(text)))
    except OSError:  # one is gone meanwhile, of which it is told when they are read
        return 0


def _dated(pattern: str | Path, day: date | None) -> str:
    return str(pattern).replace("{day}", day.isoformat() if day else "*")


def _local(pattern: str) -> list[str]:
    return [str(Path(path)) for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]


def remote(file: str) -> bool:
    """Whether this names an object of an object store, and no file here."""
    return "://" in file


def filesystem_of(file: str) -> tuple[fs.FileSystem, str]:
    """Where a file is, and its path there."""
    if not remote(file):
        return fs.LocalFileSystem(), file
    try:
        return fs.FileSystem.from_uri(file)  # type: ignore[no-any-return]
    except (pa.ArrowException, ValueError, OSError) as error:
        raise InputError(f"{file} cannot be reached: {one_line(error)}") from error


def _objects(pattern: str) -> list[str]:
    """The objects of a pattern, which means what it means for files."""
    fixed = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    if fixed == pattern:
        return [pattern]
    base = fixed[: fixed.rindex("/") + 1]
    wanted = pattern[len(base) :].split("/")
    filesystem, root = filesystem_of(base)
    try:
        found = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=len(wanted) > 1))
    except OSError as error:
        raise InputError(f"{base} cannot be listed: {one_line(error)}") from error
    names = [info.path[len(root) :].lstrip("/") for info in found if info.type == fs.FileType.File]
    return [base + name for name in names if _matches(name.split("/"), wanted)]


def _matches(names: list[str], wanted: list[str]) -> bool:
    """Whether the parts of a path are those of a pattern; `**` stands for any number of them."""
    if not wanted:
        return not names
    if wanted[0] == "**":
        return any(_matches(names[i:], wanted[1:]) for i in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], wanted[0]) and _matches(names[1:], wanted[1:])
