"""The journal: every finished result is on the disk before the next experiment starts.

A file of JSON Lines, each a :class:`~pytest_llem.records.record.Record`: all that is needed to report the result again
in another process. Of several lines for one experiment the last one holds. It holds no prompts and no environment
variables, and no more of the configuration than pytest-benchmark's saved runs do.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_llem.records import rows
from pytest_llem.session.journal_line import OtherVersionError, as_line, from_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import pytest

    from pytest_llem.records.record import Record


@dataclass(frozen=True)
class Contents:
    """What a journal holds.

    Attributes:
        records: the last one of each experiment, by node id.
        problems: what was dropped, one line each.
    """

    records: Mapping[str, Record]
    problems: Sequence[str] = ()


def read_journal(path: Path) -> Contents:
    """Read a journal; lines that cannot be read are dropped and named in ``problems``.

    Raises:
        OSError: the file cannot be read.
        OtherVersionError: another version of this package wrote it.
    """
    records: dict[str, Record] = {}
    problems: list[str] = []
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            record = from_line(line.decode())
        except OtherVersionError as error:
            raise OtherVersionError(f"{path}: {error}: report it with the version that wrote it") from None
        except ValueError as error:
            problems.append(f"{path}:{number}: dropped a line: {error}")
        else:
            records.pop(record.nodeid, None)
            records[record.nodeid] = replace(record, from_journal=True)
    if torn:
        problems.append(f"{path}:{len(lines) + 1}: dropped a torn last line: its experiment was not finished")
    return Contents(records, problems)


class Journal:
    """Writes a journal. The file is begun with the first result, or by :meth:`open`.

    While it is open it is locked, so that two sessions never mix their lines.

    Attributes:
        broken: whether it could not be written.

    Args:
        fingerprints: of each item that may have a result, by node id.
        say: takes what the user should know at the end, line by line.
        say_now: takes what the user should know before more is measured.
        split: as of a record.
    """

    def __init__(
        self,
        path: Path,
        fingerprints: Mapping[str, str],
        *,
        say: Callable[[str], None],
        say_now: Callable[[str], None],
        split: str | None = None,
    ) -> None:
        self.path = path
        self._say = say
        self._say_now = say_now
        self._fingerprints = fingerprints
        self._split = split
        self._file: int | None = None
        self._held: dict[str, Record] = {}
        self.broken = False

    def open(self, keep: Contents | None = None) -> None:
        """Begin the file. One that is there is set aside, unless it holds exactly what is to be kept.

        Args:
            keep: records that the file is to begin with; any problems in it make it be written anew.

        Raises:
            OSError: it cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if _is_locked(self.path):
            if keep is not None:
                raise OSError(f"{self.path} is in use by another session")
            self.path = self.path.with_name(f"{self.path.stem}-{os.getpid()}{self.path.suffix}")
            self._say(f"llem: the journal is in use by another session; this one's is {self.path}")
        if keep is None or keep.problems:
            self._set_aside(keep=keep is not None)
        if keep is not None:
            self._held = dict(keep.records)
            if keep.problems:
                self._replace(keep.records.values())
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        _lock(self._file)
        _sync_folder(self.path.parent)

    def signed(self, record: Record) -> Record:
        """The record with its fingerprint and the division into parts, unless it is from a journal and has them."""
        if record.fingerprint:
            return record
        return replace(record, fingerprint=self._fingerprints.get(record.nodeid, ""), split=self._split)

    def append(self, record: Record) -> None:
        """Put a record on the disk, if it is not there. A journal that cannot be written is noted, and the session goes
        on."""
        record = self.signed(record)
        if self.broken or record == self._held.get(record.nodeid):
            return
        if not record.fingerprint:
            self._say(f"llem: {record.nodeid} is not in the journal: it requested its fixture only while it ran")
            return
        try:
            if self._file is None:
                self.open()
            assert self._file is not None  # noqa: S101
            _write(self._file, as_line(record))
        except OSError as error:
            self.broken = True
            text = f"llem: no journal: {error}; results are saved at the end of the session alone"
            self._say_now(text)
            self._say(text)
        else:
            self._held[record.nodeid] = record

    def close(self) -> None:
        """Close the file, which releases it to other sessions."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def set_aside(self) -> None:
        """Set the file that is there aside, unless another session is writing it.

        Raises:
            OSError: it cannot be.
        """
        if not _is_locked(self.path):
            self._set_aside(keep=False)

    def _set_aside(self, *, keep: bool) -> None:
        if self.path.exists() and self.path.stat().st_size:
            previous = self.path.with_name(self.path.name + ".previous")
            if keep:
                shutil.copyfile(self.path, previous)
            else:
                self.path.replace(previous)
            self._say(f"llem: the journal that was there is kept as {previous}")

    def _replace(self, records: Iterable[Record]) -> None:
        """Write the file anew, in one step: a process that is killed meanwhile leaves the old file or the new one."""
        new = self.path.with_name(self.path.name + ".new")
        file = os.open(new, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o666)
        try:
            _write(file, "".join(map(as_line, records)))
        finally:
            os.close(file)
        new.replace(self.path)


def default_path(config: pytest.Config, shard: tuple[int, int] | None) -> Path | None:
    """Beside pytest-benchmark's saved runs; ``None`` where they are not in a folder."""
    folder = rows.storage_folder(config)
    part = "" if shard is None else f"-shard{shard[0]}of{shard[1]}"
    return None if folder is None else folder / f"llem-journal{part}.jsonl"


def _write(file: int, text: str) -> None:
    data = memoryview(text.encode())
    while data:
        data = data[os.write(file, data) :]
    os.fsync(file)


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_WRONLY)
    except FileNotFoundError:
        return False
    try:
        return not _lock(file)
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    """Put the folder's entry for a new file on the disk, too."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
