"""NVIDIA boards in software, beneath the real binding of NVML.

::

    clock = SimulatedClock()
    board = SimulatedBoard()
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        with meter.window() as window:
            start_s = clock.now_s()
            board.run(clock, seconds=0.5, power_w=400)
            end_s = clock.now_s()
    assert abs(window.joules - board.window_energy_j(start_s, end_s)) < window.uncertainty_j

``clock``    time that passes only when someone spends it: hours of windows take milliseconds
``power``    the power that a board truly draws, with its exact integral
``board``    a board's sensors: what of that power NVML shows, how late and how coarsely; by default an H200's
``costs``    how long that H200's reads took
``kinds``    boards of every kind that a meter should cope with, drawn at random
``recording`` what a real board showed, and a board that shows it again
``registry`` how a C function is told; ``functions``: NVML's, over those boards
``library``  the library of these functions, put beneath ``pynvml``
``powercap`` the counters of the processor beside them
``engine``   an engine without a model: ``pytest -p tests.simulators.engine``

In real time (a pytest run in a child process, say), leave the clock out: ``install([SimulatedBoard()])``. After
``skip_waits()`` the work takes its time there, and what a meter waits for takes none.
"""

from tests.simulators.board import SimulatedBoard, SimulatedProcess, ideal_board, noisy_board
from tests.simulators.clock import SimulatedClock, skip_waits, work
from tests.simulators.costs import RECORDED_READ_COSTS_S
from tests.simulators.kinds import KINDS
from tests.simulators.library import SimulatedNvml, install
from tests.simulators.power import FunctionPower, LoadedPower, Power
from tests.simulators.recording import Recording, ReplayedBoard, load_recording

__all__ = [
    "KINDS",
    "RECORDED_READ_COSTS_S",
    "FunctionPower",
    "LoadedPower",
    "Power",
    "Recording",
    "ReplayedBoard",
    "SimulatedBoard",
    "SimulatedClock",
    "SimulatedNvml",
    "SimulatedProcess",
    "ideal_board",
    "install",
    "load_recording",
    "noisy_board",
    "skip_waits",
    "work",
]
