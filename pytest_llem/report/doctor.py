"""The text of ``pytest --llem-doctor``."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from pytest_llem.sizes import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.commands.doctor import BoardFinding, Findings, MeterFinding, PackageFinding

_GPU_OPTIONS = {
    "Docker": "docker run --gpus all",
    "Podman": "podman run --device nvidia.com/gpu=all",
    "Kubernetes": "resources: {limits: {nvidia.com/gpu: 1}}",
}

_PROCESSOR_OPTIONS = {
    "Docker": "$ docker run --security-opt systempaths=unconfined",
    "Podman": "$ podman run --security-opt unmask=/sys/devices/virtual/powercap",
    "Kubernetes": "# make /sys/devices/virtual/powercap visible in Kubernetes",
}


def render(findings: Findings) -> str:
    """The findings as text for a terminal."""
    lines = ["What pytest-llem can measure on this machine", "", "Software"]
    lines += _table([(package.name, _package_text(package)) for package in findings.packages])
    lines += ["", "GPUs"]
    if findings.cuda_visible_devices is not None:
        lines += _table([("CUDA_VISIBLE_DEVICES", findings.cuda_visible_devices or "(empty)")])
    if findings.boards_reason:
        lines += _wrap("  ", f"{'' if findings.boards else 'none: '}{findings.boards_reason}")
    for finding in findings.boards:
        lines += [f"  {finding.board.index}: {finding.board.name or 'name unknown'}", *_board_lines(finding)]
    lines += ["", "Meters"]
    for meter in findings.meters:
        lines += _table([(meter.name, f"{'' if meter.name == 'auto' else _verdict(meter)}{meter.detail}")], width=10)
        lines += [f"              $ {command}" for command in meter.commands]
    lines += ["", "Host, read beside the boards of the meter nvml (--llem-host)"]
    for sensor in findings.host:
        lines += _table([(sensor.name, f"{_verdict(sensor)}{sensor.detail}")], width=10)
    if findings.container:
        lines += ["", "Container", *_container_lines(findings)]
    return "\n".join(lines) + "\n"


def _package_text(finding: PackageFinding) -> str:
    version = finding.version or "not installed"
    return f"{version} ({finding.note})" if finding.note else version


def _board_lines(finding: BoardFinding) -> list[str]:
    board = finding.board
    memory = board.total_memory_bytes
    persistence = {
        True: "on",
        False: "off: while nothing runs the driver may unload, which starts the counter again",
        None: "unknown",
    }
    mig = {True: "on: its slices have no energy counter; sudo nvidia-smi -i {} -mig 0", False: "off", None: "none"}
    rows = [
        ("UUID", board.uuid),
        ("driver", f"{board.driver_version or 'unknown'} (CUDA up to {board.cuda_driver_version or 'unknown'})"),
        ("memory", "unknown" if memory is None else size(memory)),
        ("power limit", "unknown" if board.power_limit_w is None else f"{board.power_limit_w:g} W"),
        ("MIG", mig[board.mig_enabled].format(board.index)),
        ("visible", "yes" if finding.visible else "no: CUDA_VISIBLE_DEVICES leaves it out"),
        ("persistence mode", persistence[finding.persistence_mode]),
    ]
    lines = _table(rows, indent="     ", width=16)
    if finding.persistence_mode is False:
        lines.append(f"{'':23}$ sudo nvidia-smi -i {board.index} -pm 1")
    return lines + _table([("energy counter", finding.counter)], indent="     ", width=16)


def _container_lines(findings: Findings) -> list[str]:
    kind = findings.container or ""
    lines = _wrap("  ", f"This is a {kind} container: the processes that the driver names have the host's PIDs.")
    if not findings.boards:
        lines += ["  To show it the GPUs:", f"              $ {_GPU_OPTIONS[kind]}"]
    if any(meter.name == "rapl" and not meter.works for meter in findings.meters):
        lines += ["  To show it the counters of the processor, which containers hide since CVE-2020-8694:"]
        lines += [f"              {_PROCESSOR_OPTIONS[kind]}"]
    return lines


def _verdict(meter: MeterFinding) -> str:
    return "works: " if meter.works else "cannot work: "


def _table(rows: Sequence[tuple[str, str]], *, indent: str = "  ", width: int = 0) -> list[str]:
    width = width or max(len(name) for name, _ in rows)
    return [line for name, text in rows for line in _wrap(f"{indent}{name:{width}}  ", text)]


def _wrap(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        width=110,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
