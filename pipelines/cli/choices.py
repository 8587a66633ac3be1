"""Which network and which data: the user chooses both, or neither, and then the example runs.

No list of what goes together is kept here: the files of conf/experiment/ say it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

EXAMPLE = "digits"  # embedded: a model and the data set that it is trained on
GROUPS = ("model", "data")
CHOOSING = (*GROUPS, "experiment", "sweep")  # groups that choose a network or data
OWN = ("data.root", "data.calibration_root")  # that somebody gives who has data of his own
MISSING = re.compile(r"You must specify '(model|data)'.*?\n((?:\t.*(?:\n|$))+)", re.DOTALL)


def completed(words: Sequence[str], conf: Path) -> list[str]:
    """The words, with the other half of the example where only it, or nothing, is chosen.

    >>> completed(["bits=3"], Path("conf"))
    ['model=digits', 'data=digits', 'bits=3']

    Raises:
        ValueError: nothing is chosen, but a setting shows that the example is not meant.
    """
    chosen = _chosen(words)
    if not set(chosen.values()) <= {EXAMPLE} or set(chosen) - {*GROUPS}:
        return list(words)
    _refuse_own(words, chosen, conf)
    return [*(f"{group}={EXAMPLE}" for group in GROUPS if group not in chosen), *words]


def nothing_chosen(words: Sequence[str]) -> bool:
    """Whether a run of these words is the example because they choose nothing."""
    return not _chosen(words)


def missing(text: str, words: Sequence[str], conf: Path) -> str | None:
    """What to choose, where Hydra says in `text` that a model or data has to be."""
    found = MISSING.search(text)
    if found is None:
        return None
    group, every = found[1], found[2].split()
    other = GROUPS[1 - GROUPS.index(group)]
    given = _chosen(words)
    experiments = _pairs(conf)
    fitting = {
        name: pair[group]
        for name, pair in experiments.items()
        if other not in given or pair[other] in given[other].split(",")
    }
    near = [_offer(group, name, conf) for name in dict.fromkeys(fitting.values())]
    beside = " ".join(f"{key}={value}" for key, value in given.items()) or "nothing"
    kind = "model" if group == "model" else "data set"
    text = f"which {kind}? {beside} is given, but no {group}=. "
    if other in given and near:
        text += f"Experiments with {other}={given[other]} take {', '.join(near)}. "
    both = next(iter(fitting), next(iter(experiments)))
    return f"{text}Choose one of {', '.join(every)}, or both at once, as experiment={both} does"


def _chosen(words: Sequence[str]) -> dict[str, str]:
    parted = (word.lstrip("+").partition("=") for word in words)
    return {key: value for key, _, value in parted if key in CHOOSING}


def _refuse_own(words: Sequence[str], chosen: Mapping[str, str], conf: Path) -> None:
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        group, _, setting = key.partition(".")
        if group not in GROUPS or value == "null":
            continue
        having = [path.stem for path in _files(conf, group) if setting.split(".")[0] in _keys(path)]
        if key not in OWN and (EXAMPLE in having or not having):
            continue  # a setting of the example, or of nothing
        names = ", ".join(name for name in having if name != EXAMPLE)
        given = f"{group}={chosen[group]} has none" if group in chosen else f"no {group}= is"
        raise ValueError(f"{key} is given, but {given}. Choose {group}= from {names}")


def _pairs(conf: Path) -> dict[str, dict[str, str]]:
    """{experiment: {"model": ..., "data": ...}} of those that choose both."""
    found: dict[str, dict[str, str]] = {}
    for path in _files(conf, "experiment"):
        pair = dict(re.findall(r"- override /(model|data): (\S+)", path.read_text("utf-8")))
        if len(pair) == len(GROUPS):
            found[path.stem] = pair
    return found


def _offer(group: str, name: str, conf: Path) -> str:
    """ "model=timm model.name=NAME": a choice with the settings that it cannot do without."""
    path = conf / group / f"{name}.yaml"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    open_ones = [line.split(":")[0] for line in lines if re.match(r"\w+: \?\?\?", line)]
    return " ".join([f"{group}={name}", *(f"{group}.{key}=NAME" for key in open_ones)])


def _keys(path: Path) -> list[str]:
    """Settings at the left margin of a file, and of those that it begins with."""
    text = path.read_text("utf-8")
    begun = re.findall(r"^  - (\w+)$", text, re.MULTILINE)
    above = [key for name in begun for key in _keys(path.with_name(f"{name}.yaml"))]
    return [*above, *re.findall(r"^(\w+):", text, re.MULTILINE)]


def _files(conf: Path, group: str) -> list[Path]:
    return sorted((conf / group).glob("*.yaml"))
