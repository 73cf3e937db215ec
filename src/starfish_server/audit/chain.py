"""The hash chain of a `JsonLinesSink`, and `verify_audit_log`, which checks it.

A chained line is the record's JSON object with three more members at its end, `"seq"` (1 for the first line),
`"prev"` (the hash of the line before, or 64 zeros) and `"hash"`. The hash is the SHA-256, or with a key the
HMAC-SHA-256, of the line's bytes up to `,"hash"`, so that any language can check it without parsing.
"""

from __future__ import annotations

import fileinput
import hashlib
import hmac
import os
import re
from dataclasses import dataclass
from pathlib import Path

from starfish_server.audit.log_file import rotated_files
from starfish_server.checks import secret_bytes

MAX_PROBLEMS = 100
_LINE = re.compile(
    rb'(\{.*,"seq":([0-9]{1,19}),"prev":"([0-9a-f]{64})"),"hash":"([0-9a-f]{64})"\}\n', re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Link:
    """One line's place in the chain. The hash is empty if the line cannot be read."""

    seq: int = 0
    hash: str = "0" * 64
    prev: str = ""


@dataclass(frozen=True, slots=True)
class AuditProblem:
    """One broken place of an audit log.

    file: where it is.
    line: number of the line, from 1.
    message: what is wrong.
    """

    file: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class AuditVerification:
    """The result of `verify_audit_log`.

    ok: whether there was no problem.
    lines: how many lines were read.
    files: the files that were read, oldest first.
    last_hash: the hash of the last line, or None without one.
    problems: the first 100 of them.
    unfinished_bytes: size of the lines that crashes cut short, which are kept in the file ending in ".torn".
    """

    ok: bool
    lines: int
    files: tuple[Path, ...]
    last_hash: str | None
    problems: tuple[AuditProblem, ...]
    unfinished_bytes: int


def chained_line(record_json: str, after: Link, key: bytes | None) -> tuple[bytes, Link]:
    """Return the line that follows `after`, and its place in the chain."""
    covered = f'{record_json[:-1]},"seq":{after.seq + 1},"prev":"{after.hash}"'.encode("ascii")
    digest = _digest(covered, key)
    return b'%s,"hash":"%s"}\n' % (covered, digest.encode()), Link(after.seq + 1, digest, after.hash)


def is_chained(line: bytes) -> bool:
    """Return whether a whole line is part of a chain, made with any key."""
    return _LINE.fullmatch(line) is not None


def link_of(line: bytes, key: bytes | None) -> Link | None:
    """Return the place of a whole line in a chain made with `key`, or None if it is not part of one."""
    match = _LINE.fullmatch(line)
    if match is None or not hmac.compare_digest(_digest(match[1], key).encode(), match[4]):
        return None
    return Link(int(match[2]), match[4].decode(), match[3].decode())


def verify_audit_log(
    path: str | os.PathLike[str],
    *,
    key: bytes | str | None = None,
    last_hash: str | None = None,
    missing_start: bool = False,
) -> AuditVerification:
    """Check the chain of a `JsonLinesSink(path, chain=True)`, through its rotated files and the live one.

    The result shows each line that was removed, changed, inserted or moved. Two changes are only found with
    `last_hash`: lines cut off at the end and, without a key, a recomputed chain. So keep the `last_hash` of
    each verification elsewhere and pass it to the next one, which checks that the line is still there.

    path: the sink's `path`.
    key: the sink's `key`, if it has one.
    last_hash: the hash of a line that must be in the log; None, the default, for none.
    missing_start: accept that the oldest lines are gone, as when `backups` deletes old files.
        False by default.

    Verify after `close()`, or verify a copy: a line that is being written shows as unfinished, and a rotation
    during the check shows as missing lines. Raises `FileNotFoundError` if there is no file at all.
    """
    secret = None if key is None else secret_bytes("key", key)
    live = Path(os.path.realpath(path))
    files = [*rotated_files(live), *([live] if live.exists() else [])]
    if not files:
        raise FileNotFoundError(f"there is no audit log at {live}")
    problems: list[AuditProblem] = []
    before = None if missing_start else Link()
    found = last_hash is None
    with fileinput.FileInput(files, mode="rb") as lines:
        for line in lines:
            link = link_of(line, secret)
            problem = _problem(line, link, before)
            if problem is not None and len(problems) < MAX_PROBLEMS:
                problems.append(AuditProblem(Path(lines.filename()), lines.filelineno(), problem))
            before = link or Link(1 if before is None else before.seq + 1, "")
            found = found or before.hash == last_hash
        if not found:
            cut = "the line with last_hash is gone: lines were cut off"
            problems.append(AuditProblem(Path(lines.filename()), lines.filelineno(), cut))
        count = lines.lineno()
    torn = live.with_name(live.name + ".torn")
    return AuditVerification(
        ok=not problems,
        lines=count,
        files=tuple(files),
        last_hash=before.hash if before is not None and count else None,
        problems=tuple(problems),
        unfinished_bytes=torn.stat().st_size if torn.exists() else 0,
    )


def _problem(line: bytes, link: Link | None, before: Link | None) -> str | None:
    if link is None:
        return "changed, or not of this chain" if line.endswith(b"\n") else "unfinished"
    if before is None:
        return None
    if link.seq > before.seq + 1:
        return (
            f"lines {before.seq + 1} to {link.seq - 1} of the chain are missing before this one, {link.seq}"
        )
    if link.seq <= before.seq:
        return f"out of order: line {link.seq} of the chain comes after line {before.seq}"
    if before.hash and link.prev != before.hash:
        return "does not follow the line before it, which was replaced"
    return None


def _digest(covered: bytes, key: bytes | None) -> str:
    if key is None:
        return hashlib.sha256(covered).hexdigest()
    return hmac.digest(key, covered, "sha256").hex()
