"""docs/store-keys.md: what of every stage is in its key, as the code says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from pipelines.machine.machine import Machine
from pipelines.store import code, fingerprint
from tests.mutations import proven
from tests.mutations.changes import changes
from tests.mutations.data_sets import data_sets, keyed
from tests.mutations.stages import inputs, stages

LIBRARIES = {  # of the columns; what is a library's own requirement counts with it
    "torch": "torch", "numpy": "numpy", "pillow": "Pillow", "torchvision": "torchvision",
    "timm": "timm", "transformers": "transformers", "ultralytics": "ultralytics",
    "faster-coco-eval": "faster-coco-eval", "onnxruntime": "onnxruntime",
}  # fmt: skip
NETWORKS = {
    "defined here (`CheckpointModel`, `digits`)": "pipelines.models.mobilenet_v1",
    "`timm`": "timm.models.resnet",
    "`transformers`": "transformers.models.bert.modeling_bert",
    "`yolo`": "ultralytics.nn.tasks",
}
# ruff: noqa: E501
HEAD = """\
# What is in a key

A stored result is served only to what it was computed from. This page is made by `python -m tests.mutations`, which changes every setting and every input of every stage in turn and
looks whether the key changes; the tests do so, too, with every module and every library that a stage reaches.

Of **{total}** changes, **{seen}** make the stage run again, {proven} cannot change its result, as a test shows, and **0** are answered with a stale result.
"""


def render() -> str:
    """The whole page."""
    found = stages()
    rows, seen = stage_rows(found)
    data, data_seen, data_proven = data_rows()
    machine = machine_rows()
    seen += data_seen + 1
    shown = data_proven + len(machine) - 1
    parts = [
        HEAD.format(seen=seen, total=seen + shown, proven=shown),
        "## Stages\n\nIn the key is every setting, the key of every input, the code of every module that can be reached by imports, and the version of every library. "
        "A setting within a setting counts as one: the function of a method, each of its arguments.\n",
        _table(["stage", "settings changed", "inputs"], rows),
        "## Libraries\n\nA new version throws away what it computes, and nothing else. With the version go the checksums of the library's files.\n",
        _table(["stage, data set or network", *LIBRARIES.values()], library_rows(found)),
        "## Images\n\nThe content of every image, mask and label is in the key, as are the transform, the code of the data set and its settings:\n",
        _table(["setting", "calibration", "evaluation"], data),
        "## Networks\n\nName, input format, every tensor, attribute, hook and class of the network, the code of these, what has built it and with which arguments.\n",
        "## Machine\n",
        _table(["setting", "in a key"], machine),
        "Times are the exception: they belong to a machine. See [the store](store.md#times).\n",
    ]
    return "\n".join(parts)


def stage_rows(found: dict[str, Any]) -> tuple[list[list[str]], int]:
    """A row for each stage, and how many changes its key has seen."""
    rows, total = [], 0
    for name, stage in found.items():
        count, given = len(list(changes(stage))), inputs(stage)
        total += count + len(given)
        rows.append([f"`{name}`", count, ", ".join(given) or "none"])
    return rows, total


def library_rows(found: dict[str, Any]) -> list[list[str]]:
    """Which of LIBRARIES each stage, data set and kind of network uses."""
    rows = [[f"`{name}`", *_used(fingerprint.modules(s))] for name, s in found.items()]
    rows += [[f"images of `{kind.__name__}`", *_used([kind.__module__])] for kind in data_sets()]
    rows += [[f"network {text}", *_used([module, "torch.nn"])] for text, module in NETWORKS.items()]
    return rows


def data_rows() -> tuple[list[list[str]], int, int]:
    """A row for each setting of any data set; changes seen, changes proven to move nothing."""
    rows: dict[str, list[str]] = {}
    seen = shown = 0
    for kind in data_sets():
        for name in keyed(kind):
            reasons = proven.DATA.get(name, (None, None))
            rows[name] = [f"`{name}`", *(r.text if r else "in the key" for r in reasons)]
            seen += reasons.count(None)
            shown += 2 - reasons.count(None)
    return list(rows.values()), seen, shown


def machine_rows() -> list[list[str]]:
    """A row for each setting of the machine."""
    return [
        [f"`{f.name}`", proven.MACHINE[f.name].text if f.name in proven.MACHINE else "in the key"]
        for f in dataclasses.fields(Machine)
    ]


def _used(modules: Iterable[str]) -> list[str]:
    closure = code.closure(modules)
    return ["yes" if f"dist {name}" in closure else "" for name in LIBRARIES]


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
