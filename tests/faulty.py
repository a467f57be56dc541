"""fedlit with a fault: `python tests/faulty.py WHERE WHAT ROUND PLACE run CONFIG ...`; process PLACE meets it once.

WHERE: training, forward, sharing, scoring, saving. WHAT: kill, hang, slow, raise, term, usr1.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from fedlit.__main__ import importing, main

with importing():
    import torch

    from fedlit import checkpoint, client, federation, training
    from fedlit.fleet import collecting, fleet

torch.set_num_threads(1)
where, what, round, place = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
now = {"round": 0, "met": False}


def meet() -> None:
    if now["met"] or now["round"] != round or os.environ.get("LOCAL_RANK", "0") != place:
        return
    now["met"] = True
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    if what == "usr1":
        os.kill(os.getpid(), signal.SIGUSR1)
    if what in ("hang", "slow"):
        time.sleep(12 if what == "slow" else 10_000)
    if what == "raise":
        raise RuntimeError("disk on fire")


def before(module, name):
    """Let the fault be met before the function does its work."""
    function = getattr(module, name)

    def wrapped(*args, **kwargs):
        meet()
        return function(*args, **kwargs)

    setattr(module, name, wrapped)


def map_noting_the_round(self, local_update, cohort, broadcast, *rest):
    now["round"] = broadcast.round + 1
    return real_map(self, local_update, cohort, broadcast, *rest)


real_map, fleet.Fleet.map = fleet.Fleet.map, map_noting_the_round
before(*{
    "training": (training, "next_batch"),
    "forward": (client.Client, "objective"),
    "sharing": (collecting, "mean_of_all"),
    "scoring": (federation.Federation, "_score_site"),
    "saving": (checkpoint.Checkpoints, "save"),
}[where])  # fmt: skip
main(sys.argv[5:])
