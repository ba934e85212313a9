"""NVIDIA boards in software, beneath the real binding of NVML.

::

    clock = SimulatedClock()
    board = SimulatedBoard(power=LoadedPower(idle_w=60, tail_w=200, decay_s=0.15), period_s=0.1)
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        with meter.window() as window:
            board.run(clock, seconds=0.5, power_w=400)
    assert abs(window.joules - 200) < window.uncertainty_j

``clock``    time that passes only when someone spends it: hours of windows take milliseconds
``power``    the power that a board truly draws, with its exact integral
``board``    a board's sensors: what of that power NVML shows, how late and how coarsely
``registry`` how a C function is told; ``functions``: NVML's, over those boards
``library``  the library of these functions, put beneath ``pynvml``

In real time (a pytest run in a child process, say), leave the clock out: ``install([SimulatedBoard()])``.
"""

from tests.simulators.board import SimulatedBoard, SimulatedProcess
from tests.simulators.clock import SimulatedClock
from tests.simulators.library import SimulatedNvml, install
from tests.simulators.power import FunctionPower, LoadedPower, Power

__all__ = [
    "FunctionPower",
    "LoadedPower",
    "Power",
    "SimulatedBoard",
    "SimulatedClock",
    "SimulatedNvml",
    "SimulatedProcess",
    "install",
]
