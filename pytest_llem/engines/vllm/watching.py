"""The end of vLLM's engine core, told to the call that waits for it.

vLLM notices that its engine core has ended, and refuses every call after that; one that is waiting then, it lets wait
for ever.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any


def end_with_engine(llm: Any) -> str | None:
    """Let calls of ``llm`` that wait when its engine core ends fail with vLLM's own exception.

    Returns:
        Why that cannot be done; ``None`` where it is.
    """
    # Of vLLM's client of the engine core; there are no public names.
    client = llm.llm_engine.engine_core
    listening = getattr(client, "output_queue_thread", None)
    outputs, waiting = getattr(client, "outputs_queue", None), getattr(client, "utility_results", None)
    if listening is None or outputs is None or waiting is None:
        return "vllm: this version would let a call wait for ever if its engine process were killed"

    def tell() -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        # The thread that listens to the core ends with it, or when it is shut down.
        listening.join()
        outputs.put_nowait(EngineDeadError())
        for future in list(waiting.values()):
            with suppress(Exception):  # one that has just been answered
                future.set_exception(EngineDeadError())

    threading.Thread(target=tell, name="llem engine", daemon=True).start()
    return None
