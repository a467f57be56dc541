"""Whether the parts of a checked config fit together: asked before a run, or many, are begun or submitted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from omegaconf import DictConfig, OmegaConf

from fedlit.config import Checked, refusal
from fedlit.errors import BadInput
from fedlit.sweep import Run, said_of_points

ANY_MACHINE = {"accelerator": "cpu", "devices": 1, "num_nodes": 1}


def sketchable(result: Checked) -> Checked:
    """The checked config, without those unset keys that a sketch does without."""
    from fedlit.sketch import UNSET  # late: torch comes with it

    return replace(result, unset=tuple(key for key in result.unset if key not in UNSET))


def structure(result: Checked) -> list[str]:
    """What does not fit together in a checked config; nothing where too much is left unset to tell."""
    asked = sketchable(result)
    return [] if asked.unset else misfits_of(asked.require())


def misfits_of(config: DictConfig) -> list[str]:
    """What does not fit together: members, network, algorithm, rule, transforms."""
    from fedlit.plan import exchanges
    from fedlit.sketch import sketch

    try:
        exchanges(sketch(config))
    except BadInput as error:
        return str(error).splitlines()
    return []


def refuse_misfits(title: str, runs: Iterable[tuple[Run, DictConfig]]) -> None:
    """Raises BadInput, with all that does not fit together in any of these runs, each said once.

    Runs that differ in their seed alone are looked at once. They may be meant for other machines than this one.
    """
    alike: dict[str, tuple[Run, DictConfig]] = {}
    for run, config in runs:
        plain = config.copy()
        plain.update({"seed": 0, "run_dir": "", "loggers": {}, **ANY_MACHINE})
        if config.privacy is None:
            plain.precision = "32-true"
        alike.setdefault(OmegaConf.to_yaml(plain), (run, plain))
    points = [tuple(word for word in run.words if not word.startswith("run_dir=")) for run, _ in alike.values()]
    if lines := said_of_points(points, [misfits_of(config) for _, config in alike.values()]):
        raise refusal(title, lines)
