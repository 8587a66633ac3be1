"""Choice of model and data: the user chooses both, or neither to run the embedded example.

Which models and data sets go together follows from the files of conf/experiment/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

EXAMPLE = "digits"  # embedded: a model and the data set it is trained on
GROUPS = ("model", "data")
CHOOSING = (*GROUPS, "experiment", "sweep")  # groups that choose a network or data
OWN = ("data.root", "data.calibration_root")  # set only by users with data of their own
MISSING = re.compile(r"You must specify '(model|data)'.*?\n((?:\t.*(?:\n|$))+)", re.DOTALL)


def completed(overrides: Sequence[str], conf: Path) -> list[str]:
    """Add the example's model or data to overrides that choose nothing or only half of it.

    >>> completed(["bits=3"], Path("conf"))
    ['model=digits', 'data=digits', 'bits=3']

    Raises:
        ValueError: nothing is chosen, but a setting does not belong to the example.
    """
    chosen = _chosen(overrides)
    if not set(chosen.values()) <= {EXAMPLE} or set(chosen) - {*GROUPS}:
        return list(overrides)
    _refuse_own(overrides, chosen, conf)
    return [*(f"{group}={EXAMPLE}" for group in GROUPS if group not in chosen), *overrides]


def nothing_chosen(overrides: Sequence[str]) -> bool:
    """Whether the overrides choose neither model nor data, so that the example runs."""
    return not _chosen(overrides)


def missing(text: str, overrides: Sequence[str], conf: Path) -> str | None:
    """What to choose, if `text` is Hydra's error about a missing model or data; else None."""
    found = MISSING.search(text)
    if found is None:
        return None
    group, every = found[1], found[2].split()
    other = GROUPS[1 - GROUPS.index(group)]
    given = _chosen(overrides)
    experiments = _pairs(conf)
    fitting = {
        name: pair[group]
        for name, pair in experiments.items()
        if other not in given or pair[other] in given[other].split(",")
    }
    near = [_offer(group, name, conf) for name in dict.fromkeys(fitting.values())]
    chosen = " ".join(f"{key}={value}" for key, value in given.items()) or "nothing"
    kind = "model" if group == "model" else "data set"
    text = f"which {kind}? {chosen} is given, but no {group}=. "
    if other in given and near:
        text += f"Experiments with {other}={given[other]} take {', '.join(near)}. "
    both = next(iter(fitting), next(iter(experiments)))
    return f"{text}Choose one of {', '.join(every)}, or both at once, as experiment={both} does"


def _chosen(overrides: Sequence[str]) -> dict[str, str]:
    parted = (override.lstrip("+").partition("=") for override in overrides)
    return {key: value for key, _, value in parted if key in CHOOSING}


def _refuse_own(overrides: Sequence[str], chosen: Mapping[str, str], conf: Path) -> None:
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        group, _, setting = key.partition(".")
        if group not in GROUPS or value == "null":
            continue
        having = [path.stem for path in _files(conf, group) if setting.split(".")[0] in _keys(path)]
        if key not in OWN and (EXAMPLE in having or not having):
            continue  # the example has this setting, or nothing has
        names = ", ".join(name for name in having if name != EXAMPLE)
        given = f"{group}={chosen[group]} has none" if group in chosen else f"no {group}= is"
        raise ValueError(f"{key} is given, but {given}. Choose {group}= from {names}")


def _pairs(conf: Path) -> dict[str, dict[str, str]]:
    """{experiment: {"model": ..., "data": ...}} for the experiments that choose both."""
    found: dict[str, dict[str, str]] = {}
    for path in _files(conf, "experiment"):
        pair = dict(re.findall(r"- override /(model|data): (\S+)", path.read_text("utf-8")))
        if len(pair) == len(GROUPS):
            found[path.stem] = pair
    return found


def _offer(group: str, name: str, conf: Path) -> str:
    """ "model=timm model.name=NAME": a choice with its mandatory settings."""
    path = conf / group / f"{name}.yaml"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    open_ones = [line.split(":")[0] for line in lines if re.match(r"\w+: \?\?\?", line)]
    return " ".join([f"{group}={name}", *(f"{group}.{key}=NAME" for key in open_ones)])


def _keys(path: Path) -> list[str]:
    """Top-level settings of a file and of the files in its defaults list."""
    text = path.read_text("utf-8")
    bases = re.findall(r"^  - (\w+)$", text, re.MULTILINE)
    inherited = [key for name in bases for key in _keys(path.with_name(f"{name}.yaml"))]
    return [*inherited, *re.findall(r"^(\w+):", text, re.MULTILINE)]


def _files(conf: Path, group: str) -> list[Path]:
    return sorted((conf / group).glob("*.yaml"))
