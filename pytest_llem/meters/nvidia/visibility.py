"""Which of a machine's boards CUDA shows to this process, read from the environment alone.

NVML knows nothing of ``CUDA_VISIBLE_DEVICES``: it enumerates every board of the machine. A meter that ignores
the variable charges one job for the boards of its neighbours. The rules are those of the CUDA C++ Programming
Guide, "CUDA Environment Variables".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.errors import MeterUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_llem.meters.nvidia.library import Board

_MIG_REFUSAL = (
    "a MIG slice has no energy counter of its own, and its board's joules hold the work of the other slices "
    "too; turn MIG off (nvidia-smi -mig 0) or measure on a board without it"
)


@dataclass(frozen=True)
class Selection:
    """The boards that were chosen, and what a reader of their joules must know about the choice."""

    boards: tuple[Board, ...]
    warnings: tuple[str, ...] = ()


def canonical_uuid(uuid: str | bytes) -> str:
    """A board's UUID in one spelling, for comparison: ``GPU-`` and lower-case digits, as NVML has it.

    torch leaves the ``GPU-`` out, and older bindings of NVML return bytes.
    """
    text = uuid.decode() if isinstance(uuid, bytes) else str(uuid)
    return "GPU-" + text.strip().lower().removeprefix("gpu-")


def select(boards: Sequence[Board], uuids: Iterable[str | bytes] | None, environ: Mapping[str, str]) -> Selection:
    """The boards with these UUIDs, without any those that CUDA lets this process use.

    Raises:
        MeterUnavailableError: there is none, or one is a MIG slice or divided into such.
    """
    selection = select_visible(boards, environ) if uuids is None else select_by_uuid(boards, uuids)
    if not selection.boards:
        raise MeterUnavailableError("no GPU is visible to this process; see nvidia-smi -L and CUDA_VISIBLE_DEVICES")
    divided = [board for board in selection.boards if board.mig_enabled]
    if divided:
        raise MeterUnavailableError(f"{describe(divided)} is divided by MIG: {_MIG_REFUSAL}")
    return selection


def select_by_uuid(boards: Sequence[Board], uuids: Iterable[str | bytes]) -> Selection:
    """The boards with exactly these UUIDs, in the given order, each once.

    Raises:
        MeterUnavailableError: one of them is a MIG slice or is not among ``boards``.
    """
    by_uuid = {canonical_uuid(board.uuid): board for board in boards}
    chosen: dict[str, Board] = {}
    for uuid in uuids:
        text = uuid.decode() if isinstance(uuid, bytes) else str(uuid)
        if text.startswith("MIG-"):
            raise MeterUnavailableError(f"{text}: {_MIG_REFUSAL}")
        wanted = canonical_uuid(text)
        if wanted not in by_uuid:
            raise MeterUnavailableError(f"NVML does not show {wanted} to this process; it shows {describe(boards)}")
        chosen[wanted] = by_uuid[wanted]
    return Selection(tuple(chosen.values()))


def select_visible(boards: Sequence[Board], environ: Mapping[str, str]) -> Selection:
    """The boards that CUDA lets this process use.

    Like CUDA, the list ends before its first entry that names no board, and an entry given twice hides all
    boards.

    Args:
        boards: every board that NVML shows, in NVML's order.
        environ: the process environment: ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` are read.

    Raises:
        MeterUnavailableError: the list names a MIG slice.
    """
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return Selection(tuple(boards))
    entries = [entry.strip() for entry in value.split(",")]
    if entries[0].startswith("MIG-"):
        raise MeterUnavailableError(f"CUDA_VISIBLE_DEVICES={value}: {_MIG_REFUSAL}")
    by_uuid = entries[0].lower().startswith("gpu-")
    chosen: list[Board] = []
    for entry in entries:
        board = _board_by_uuid_prefix(boards, entry) if by_uuid else _board_by_index(boards, entry)
        if board is None:
            break
        if board in chosen:
            return Selection(())
        chosen.append(board)
    # A choice of all boards or of none is the same in every order.
    index_decides = not by_uuid and 0 < len(chosen) < len(boards)
    if index_decides and _order_is_uncertain(boards, environ):
        return Selection(
            tuple(chosen),
            (
                f"CUDA_VISIBLE_DEVICES={value} was read in PCI order, but without "
                "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA numbers unlike boards by speed and may mean another one; "
                f"name it by its UUID ({chosen[0].uuid}) or set CUDA_DEVICE_ORDER=PCI_BUS_ID",
            ),
        )
    return Selection(tuple(chosen))


def describe(boards: Iterable[Board]) -> str:
    """Boards by UUID and name, for messages."""
    return ", ".join(f"{board.uuid} ({board.name or 'name unknown'})" for board in boards) or "no board"


def _board_by_index(boards: Sequence[Board], entry: str) -> Board | None:
    # CUDA reads the digits that an entry begins with and ignores what follows them.
    digits = re.match(r"\+?(\d+)", entry)
    if digits is None or int(digits[1]) >= len(boards):
        return None
    return boards[int(digits[1])]


def _board_by_uuid_prefix(boards: Sequence[Board], entry: str) -> Board | None:
    if not entry.lower().startswith("gpu-"):
        return None
    wanted = canonical_uuid(entry)
    matches = [board for board in boards if canonical_uuid(board.uuid).startswith(wanted)]
    return matches[0] if len(matches) == 1 else None


def _order_is_uncertain(boards: Sequence[Board], environ: Mapping[str, str]) -> bool:
    if environ.get("CUDA_DEVICE_ORDER", "FASTEST_FIRST") == "PCI_BUS_ID":
        return False
    return len({board.name for board in boards}) > 1
