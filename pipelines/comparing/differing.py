"""The settings in which runs differ, for captions and the names of series.

Only settings of stages affect a figure. An override is shown if a stage setting depends on it:
`block_size=32` with row_parallel but not with rtn; `launcher=joblib` and `tags=[a]` never. A
difference without an override (another experiment, other defaults) is shown if two runs would
otherwise share a name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.comparing import settings
from pipelines.reporting import formatting
from pipelines.reporting.formatting import Results

# Stages of pipelines/chain.py that affect the figures of a method. Settings of model and data are
# compared only if the figures of the float network differ.
STAGES = (
    "calibrate", "label_free", "precision", "quantize", "activations", "rounding", "batchnorm",
    "evaluate", "costs",
)  # fmt: skip
DATA = ("model", "data")
Nodes = Mapping[str, str]  # values of settings and sections as text, by dotted name


def split(runs: Sequence[Results]) -> tuple[list[str], list[list[str]]]:
    """(settings that all runs share, settings by which each run differs), each as `name=value`."""
    hidden = settings.SEARCH if any(formatting.search(run) for run in runs) else set[str]()
    if not all(isinstance(run.get("settings"), Mapping) for run in runs):  # an older version
        shown = (settings.overrides(run) for run in runs)
        return settings.split([[o for o in own if o.split("=")[0] not in hidden] for own in shown])
    nodes = [dict(_nodes(run["settings"])) for run in runs]
    stages = (*STAGES, *DATA) if _floats_differ(runs) else STAGES
    typed = [settings.typed(run) for run in runs]
    shared, own = [], [list[str]() for _ in runs]
    for key in sorted({key for given in typed for key in given} - hidden):
        follow = _following(key, nodes, stages)
        values = [found.get(key) for found in nodes]
        if all(key in given for given in typed) and len(set(values)) == 1 and follow:
            shared.append(_override(key, nodes[0], typed[0]))
            continue
        left = {value for value, given in zip(values, typed, strict=True) if key not in given}
        for mine, given, found, value in zip(own, typed, nodes, values, strict=True):
            if key in given and {value} != left and any(path in found for path in follow):
                mine.append(_override(key, found, given))
    _add_untyped(runs, nodes, own)
    return shared, own


def _following(key: str, nodes: Sequence[Nodes], stages: Sequence[str]) -> set[str]:
    """Settings of stages that equal `key` in every run that has them."""
    return {
        path
        for path in {path for found in nodes for path in found}
        if path.split(".")[0] in stages and _follows(path, key, nodes)
    }


def _follows(path: str, key: str, nodes: Sequence[Nodes]) -> bool:
    if path == key:
        return True
    having = [found for found in nodes if path in found]
    equal = all(found[path] == found.get(key) for found in having)
    one, other = (f"_{name.split('.')[-1]}" for name in (key, path))
    alike = one.endswith(other)  # steps and cpu_steps; other names may be equal by chance
    return equal and (alike or len({found[path] for found in having}) > 1)


def _add_untyped(runs: Sequence[Results], nodes: Sequence[Nodes], own: Sequence[list[str]]) -> None:
    """Add the fewest settings to `own` that give runs with different settings different names."""
    named: dict[tuple[Any, ...], list[int]] = {}
    for number, (run, settings_) in enumerate(zip(runs, own, strict=True)):
        named.setdefault((*_named(run), *settings_), []).append(number)
    for numbers in named.values():
        group = [nodes[number] for number in numbers]
        apart: list[tuple[str, ...]] = [()] * len(group)
        for path in sorted(set.intersection(*map(set, group)), key=lambda p: (p.count("."), p)):
            values = [found[path] for found in group]
            finer = [(*known, value) for known, value in zip(apart, values, strict=True)]
            if _counts(path, values, group) and len(set(finer)) > len(set(apart)):
                apart = finer
                name = _shortest(path, values, group)
                for number, value in zip(numbers, values, strict=True):
                    own[number].append(f"{name}={value}")


def _named(run: Results) -> tuple[Any, ...]:
    """What the columns or the heading of a table show of a run besides its figures."""
    keys = ("model", "data", "metric", "n_images", "method", "inputs")
    how = formatting.search(run)
    return *(run.get(key) for key in keys), how, None if how else run.get("act_bits")


def _counts(path: str, values: Sequence[str], group: Sequence[Nodes]) -> bool:
    """Whether this is a single setting of a stage that neither bits nor the seed determines."""
    section = any(value.startswith("{") for value in values)
    numbers = [tuple(found.get(name) for found in group) for name in settings.NUMBERS]
    return path.split(".")[0] in STAGES and not section and tuple(values) not in numbers


def _shortest(path: str, values: Sequence[str], group: Sequence[Nodes]) -> str:
    """The name of the top-level setting that determines this one, if any, else its own."""
    top = [name for name in group[0] if "." not in name and name == path.split(".")[-1]]
    return next((n for n in top if [g.get(n) for g in group] == list(values)), path)


def _floats_differ(runs: Sequence[Results]) -> bool:
    """Whether runs of the same model and data set differ in the float network or the images."""
    seen: dict[tuple[Any, ...], str] = {}
    for run in runs:
        marks = {k: v for k, v in (run.get("fingerprints") or {}).items() if k != "weights"}
        found = json.dumps([run.get("float"), marks], sort_keys=True, default=str)
        if (
            seen.setdefault((run.get("model"), run.get("data"), run.get("n_images")), found)
            != found
        ):
            return True
    return False


def _override(key: str, nodes: Nodes, given: Mapping[str, str]) -> str:
    """`schedule=cpu` as typed; a single value as resolved, 0.01 rather than 1e-2."""
    value = nodes[key]
    return f"{key}={given[key] if value.startswith('{') else value}"


def _nodes(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if not str(key).startswith("_"):  # _target_ and the like: names of models, methods, ...
            yield f"{prefix}{key}", _text(value)
            if isinstance(value, Mapping):
                yield from _nodes(value, f"{prefix}{key}.")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(_public(value), separators=(",", ":"))


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _public(v) for k, v in value.items() if not str(k).startswith("_")}
    return [_public(v) for v in value] if isinstance(value, list) else value
