"""Is an audit log whole: every line of every file, against its seals.

A file whose last line was not finished, behind all that its head counts, is what a process leaves that was killed while
it wrote. That is told apart from what somebody changed.
Border: reads files and says what it found.
Limits: after a loss of power a head may count lines that never reached the disk; that looks like lines removed.
"""

from pathlib import Path
from typing import NamedTuple

import msgspec

from millis.errors import InvalidData
from millis.security.sealing import REGISTER, SECRET, Head, Line, Seals


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at a folder found.

    Args:
        problems: file, line and what is wrong with it.
        unfinished: files whose writer was killed in the middle of a line, after all that was counted.
    """

    files: int
    lines: int
    problems: tuple[str, ...]
    unfinished: tuple[str, ...] = ()


class Walk(NamedTuple):
    """What a walk along a file's lines found.

    Args:
        n, last: lines that hold, and the seal of the last of them.
        n_bytes: theirs.
        wrong: what is wrong at line n, None where nothing is.
        is_unfinished: behind them stands a piece of a line that nobody counted yet.
    """

    n: int
    last: str
    n_bytes: int
    wrong: str | None
    is_unfinished: bool


def verify(folder: str | Path, *, seals: str | Path | None = None) -> Verified:
    """Check every line of every log in a folder.

    Args:
        seals: where heads, register and secret are; in the folder itself when None.
    Raises:
        InvalidData: there is no log, or no secret to check it by.
    """
    folder = Path(folder)
    kept = folder if seals is None else Path(seals)
    files = {file.stem: file for file in sorted(folder.glob("*.jsonl"))}
    if not (kept / SECRET).is_file() or not (files or (kept / REGISTER).exists()):
        raise InvalidData(
            f"there is no audit log with its {SECRET} in {kept}: name the folder that --audit named, and with --seals"
            " the one that --audit-seals named."
        )
    opened = Seals(kept)
    problems, begun = [], set(files)
    try:
        begun = set(opened.read_register())
    except OSError:
        problems.append(f"{REGISTER}: the register is missing, so files may be missing")
    except ValueError:
        problems.append(f"{REGISTER}: the register was changed, so files may be missing")
    problems += [f"{name}.jsonl: the whole file is missing" for name in sorted(begun - files.keys())]
    n_lines, unfinished = 0, []
    for name, file in files.items():
        found = walk(file, opened)
        n_lines += found.n
        if found.wrong is not None:
            problems.append(f"{file.name}:{found.n}: {found.wrong}")
        elif found.is_unfinished:
            unfinished.append(f"{file.name}:{found.n + 1}: unfinished: its writer was killed in the middle of it")
        if name not in begun and file.stat().st_size:
            problems.append(f"{file.name}: is not in the register: it was put in, or the register is an older one")
    return Verified(files=len(files), lines=n_lines, problems=tuple(problems), unfinished=tuple(unfinished))


def walk(file: Path, seals: Seals) -> Walk:
    """Walk along the lines of a file until one does not hold, and compare with its head."""
    last, n, n_bytes, is_unfinished = seals.begin(file.stem), 0, 0, False
    with file.open("rb") as rows:
        for row in rows:
            if not row.endswith(b"\n"):
                is_unfinished = True
                break
            n += 1
            try:
                line = msgspec.json.decode(row, type=Line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                return Walk(n, last, n_bytes, "is no line of an audit log", is_unfinished)
            wanted, seal = seals.write(line, before=last)
            if line.n != n or row != wanted:
                return Walk(n, last, n_bytes, "was changed, or a line before it was removed or put in", is_unfinished)
            last, n_bytes = seal, n_bytes + len(row)
    return Walk(n, last, n_bytes, _compare(file.stem, seals, n=n), is_unfinished)


def _compare(name: str, seals: Seals, *, n: int) -> str | None:
    """Say what is wrong with n lines that hold, by their head."""
    try:
        head: Head | None = seals.read_head(name)
    except (OSError, ValueError):
        return "the head of this log is missing or unreadable, so lines may be missing at its end"
    if head is None:
        return "the head of this log was changed"
    return f"{head.n - n} lines are missing at the end" if n < head.n else None
