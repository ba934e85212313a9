"""From a loaded model to the result of an experiment: what comes before the windows, and what is told after them.

A session of pytest and :func:`pytest_llem.measure` measure by this one function.
"""

from __future__ import annotations

import gc
import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pytest_llem.engines.library_warnings import library_warnings, with_earlier
from pytest_llem.errors import UnavailableError
from pytest_llem.measurement.protocol import measure_workload
from pytest_llem.measurement.windows import Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_llem.config import ExperimentConfig
    from pytest_llem.engines.base import LoadedModel, Workload
    from pytest_llem.measurement.account import Account
    from pytest_llem.measurement.open_meters import IdlePowerOf
    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.measurement.warm_up import Progress
    from pytest_llem.measurement.windows import AwaitTurn
    from pytest_llem.meters.base import Disturbance, Meter

REMOTE_CODE = "trust_remote_code: Python code that came with the model was allowed to run"
"""Warning in the result of an experiment that trusts its model's code."""

# Of rounds: auto in pairs of processes, where precision comes from pairs: four blocks, which also show the windows' own
# noise (docs/measurement.md).
_ROUNDS_IN_TURNS = 8
# Of what is left of the session's time, where an experiment's number of rounds is open: it warms up before them.
_SHARE_OF_ROUNDS = 0.9


def measure_experiment(
    config: ExperimentConfig,
    folder: Path,
    model: LoadedModel,
    meter: Meter,
    *,
    idle_power: IdlePowerOf,
    account: Account,
    rounds: int | Literal["auto"] | None = None,
    min_window_s: float | None = None,
    left_s: Callable[[], float] = lambda: math.inf,
    progress: Progress | None = None,
    await_turn: AwaitTurn | None = None,
    keeps_generated: bool = False,
) -> tuple[ExperimentResult, Workload]:
    """Measure what ``config`` says with its loaded ``model``.

    Args:
        folder: where relative paths of the dataset start.
        idle_power: power with the model loaded and nothing running; asked once the device was looked at.
        account: where the seconds are accounted for, the load's among them.
        rounds, min_window_s: win over what the file says.
        left_s: seconds that are left for it.
        progress, await_turn: called between the windows, see
            :func:`pytest_llem.measurement.windows.measure_windows`.
        keeps_generated: see :func:`pytest_llem.measurement.protocol.measure_workload`.

    Returns:
        The result, and the work that it is of.

    Raises:
        UnavailableError: it cannot be measured so on this machine.
        MeasurementError, PromptError: it could not be measured.
    """
    with library_warnings() as heard:
        started_s = time.monotonic()
        turns = turns_of(await_turn, meter)
        with checked_meanwhile(meter, account) as disturbances:
            workload = model.prepare(config, folder)
        with account.of("sensor"):
            asked = protocol(
                config, meter, rounds=rounds, min_window_s=min_window_s, left_s=left_s, by_turns=turns is not None
            )
            unjoined = [] if turns else _boundary_notes(config, asked, meter)
        with account.of("idle"):
            idle = idle_power(model, meter, disturbances)
        result = measure_workload(
            workload,
            asked,
            meter,
            idle=idle,
            disturbances=disturbances,
            phases=config.measure.phases,
            progress=progress,
            await_turn=turns,
            account=account,
            keeps_generated=keeps_generated,
        )
        took_s = time.monotonic() - started_s
    told = with_earlier([*model.warnings, *heard.texts], model.libraries)
    warnings = [*result.warnings, *_batch_notes(config, len(workload.prompts)), *unjoined, *told]
    # In turns it has waited for another process.
    if config.timeout_s is not None and took_s > config.timeout_s and not turns:
        warnings.append(f"timeout_s: it took {took_s:.1f} s of {config.timeout_s:g} s, and was let run")
    if config.section is not None and config.section.trust_remote_code:
        warnings.append(f"{config.backend}.{REMOTE_CODE}")
    result = replace(
        result,
        load_s=model.load_s,
        samples=bool(config.decoder.resolved().do_sample),
        warnings=list(dict.fromkeys(warnings)),
        spent_s=account.spent_s(),
        timestamp_s=time.time(),
    )
    return result, workload


def protocol(
    config: ExperimentConfig,
    meter: Meter,
    *,
    rounds: int | Literal["auto"] | None = None,
    min_window_s: float | None = None,
    left_s: Callable[[], float] = lambda: math.inf,
    by_turns: bool = False,
) -> Protocol:
    """The experiment's protocol.

    Args:
        rounds, min_window_s, left_s: as of :func:`measure_experiment`.
        by_turns: whether its windows take turns with those of another process.

    Raises:
        UnavailableError: the file asks for joined windows, which this meter cannot measure.
    """
    measure = config.measure
    if measure.boundaries == "joined" and meter.joins is not None:
        raise UnavailableError(f"measure.boundaries: windows cannot be joined here: {meter.joins}")
    window_s = measure.min_window_s if min_window_s is None else min_window_s
    asked = rounds or measure.rounds
    is_joined = measure.is_joined
    if by_turns:
        # Windows in a row would leave the other process no turn.
        asked, is_joined = rounds_by_turns(asked), measure.boundaries == "joined"
    return Protocol(
        rounds=None if asked == "auto" else asked,
        warmup_rounds=measure.warmup_rounds,
        min_window_s=meter.auto_window_s if window_s in (None, "auto") else float(window_s),
        precision=measure.relative_precision,
        budget_s=min(measure.budget_s or Protocol.budget_s, max(_SHARE_OF_ROUNDS * left_s(), 0.0)),
        joined=is_joined and meter.joins is None,
    )


def rounds_by_turns(rounds: int | Literal["auto"]) -> int:
    """Windows of a process that takes turns with another one: two of each to a block."""
    return _ROUNDS_IN_TURNS if rounds == "auto" else rounds + rounds % 2


def turns_of(await_turn: AwaitTurn | None, meter: Meter) -> AwaitTurn | None:
    """How an item waits for its turn, after which the meter knows that others have worked, as they have before it."""
    if await_turn is None:
        return None
    meter.others_worked()

    def await_turn_of_item(done: int, total: int) -> None:
        await_turn(done, total)
        meter.others_worked()

    return await_turn_of_item


@contextmanager
def checked_meanwhile(meter: Meter, account: Account) -> Iterator[list[Disturbance]]:
    """Watch whether the device is at rest while the body works on the host; what disturbs it is there afterwards."""
    found: list[Disturbance] = []
    with account.of("checks"), ThreadPoolExecutor(max_workers=1, thread_name_prefix="llem quiet") as pool:
        looking = pool.submit(meter.check_quiet)
        yield found
        # What the load or the last item left; it takes a while.
        gc.collect()
        found += looking.result()


def _batch_notes(config: ExperimentConfig, prompts: int) -> list[str]:
    """Batches that are smaller than the file sets, because the prompts do not fill them."""
    batch_size = (config.pytorch.batch_size if config.pytorch else None) or 1
    if batch_size > prompts:
        return [f"batch_size {batch_size} is above the number of prompts: each call has {prompts} of them"]
    if rest := prompts % batch_size:
        return [f"batch_size {batch_size} does not divide the {prompts} prompts: the last call of a pass has {rest}"]
    return []


def _boundary_notes(config: ExperimentConfig, asked: Protocol, meter: Meter) -> list[str]:
    """Windows that settle although the asked precision would have joined them: their energy is another quantity.

    What the meter can do may change while it measures, so this is asked beforehand.
    """
    if config.measure.is_joined and not asked.joined:
        reason = meter.joins or "they could not be joined a moment ago"
        return [f"measure.boundaries: windows are settled, though joined ones suit the asked precision: {reason}"]
    return []
