from __future__ import annotations

import functools
import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.models.digits import TrainDigits
from pipelines.stages.calibrate import Calibrate
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.solving.solve import LayerInput, SolveLayer
from pipelines.store import code, fingerprint
from pipelines.store.artifacts import Keyed
from pipelines.store.describe import UntellableError
from quant import grid
from quant.layers import Layer
from quant.methods import gptq, rtn

STAGE = '''
"""A module."""
from dataclasses import dataclass
from .helper import f

@dataclass(frozen=True)
class Stage:
    """A stage."""
    def run(self, x):
        """Run it."""
        return f(x) + 1
'''
HELPER = "def f(x):\n    return 2 * x\n"
X = [Keyed(None, "x")]


@pytest.fixture
def key_of_source(tmp_path, monkeypatch):
    """(stage.py, helper.py) -> key of zoo_of_tests.stage.Stage, a package of the user's."""
    package = tmp_path / "zoo_of_tests"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def key(stage=STAGE, helper=HELPER):
        (package / "stage.py").write_text(stage)
        (package / "helper.py").write_text(helper)
        for name in [n for n in sys.modules if n.startswith("zoo_of_tests")]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        fingerprint.forget()
        return fingerprint.key(importlib.import_module("zoo_of_tests.stage").Stage(), X)

    yield key
    fingerprint.forget()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another text."""'),
        ('    """A stage."""\n', ""),
        ('        """Run it."""\n', "        # run it\n"),
        ("return f(x) + 1", "return (\n            f(x)\n            + 1\n        )"),
    ],
)
def test_comments_docstrings_and_formatting_are_not_source(key_of_source, old, new):
    assert old in STAGE
    assert key_of_source() == key_of_source(STAGE.replace(old, new))


def test_a_changed_line_of_code_changes_the_key(key_of_source):
    assert key_of_source() != key_of_source(STAGE.replace("+ 1", "+ 2"))


def test_a_helper_behind_a_relative_import_changes_the_key(key_of_source):
    assert key_of_source() != key_of_source(helper=HELPER.replace("2 *", "3 *"))
    assert key_of_source() == key_of_source(helper=f"# a remark\n{HELPER}")


def solver(method=rtn.quantize, shrink=80, **options):
    fit = functools.partial(
        grid.fit,
        granularity="channel",
        symmetric=False,
        search="mse",
        group_size=128,
        norm=2.4,
        shrink=shrink,
    )
    return SolveLayer(functools.partial(method, **options), fit, 0.01)


def test_a_partial_counts_by_its_function_and_arguments():
    stages = [
        solver(),
        solver(gptq.quantize, order="diag"),
        solver(gptq.quantize, order="natural"),
        solver(shrink=81),
    ]
    assert len({fingerprint.key(s, X) for s in stages}) == 4
    assert fingerprint.key(solver(), X) == fingerprint.key(solver(), X)
    assert fingerprint.key(solver(), X) != fingerprint.key(solver(), [Keyed(None, "y")])


def test_the_code_of_the_method_counts_and_that_of_other_methods_does_not():
    closure = code.closure(fingerprint.modules(solver(gptq.quantize, order="diag")))
    assert {"quant.methods.gptq", "quant.grid", "quant.problem", "quant.order"} <= set(closure)
    assert "quant.methods.obq" not in closure


@pytest.mark.parametrize(
    "stage",
    [solver(), Calibrate(2, 2, 1, None, 0), Evaluate(), TrainDigits(1, 1, 1.0, 1.0, 0, {})],
    ids=lambda stage: type(stage).__name__,
)
def test_what_shows_tracks_or_compares_results_is_imported_by_no_stage(stage):
    closure = set(code.closure(fingerprint.modules(stage)))
    rooms = {".".join(name.split(".")[:2]) for name in closure}
    shown = ("reporting", "tracking", "comparing", "cli")
    assert not rooms & {f"pipelines.{room}" for room in shown}
    assert not {"pipelines.store.store", "pipelines.store.gc", "pipelines.run"} & closure


@pytest.mark.parametrize("library", ["timm", "transformers", "ultralytics", "torchvision"])
@pytest.mark.parametrize(
    "module",
    [
        "pipelines.stages.calibrate",
        "pipelines.models.mobilenet_v1",
        "pipelines.models.digits",
        "pipelines.models.cifar_resnet",
        "evaluation.cifar",
        "evaluation.imagenet",
    ],
)
def test_its_new_version_throws_away_nothing_of_a_network_defined_here(module, library):
    assert f"dist {library}" not in code.closure([module])


def test_libraries_count_where_they_compute():
    assert "dist timm" in code.closure(["timm.models.resnet"])
    found = code.closure(["evaluation.coco"])
    assert { "dist faster-coco-eval", "dist torchvision", "dist opencv-python",
            "dist pillow", "dist numpy", "dist torch"} <= set(found)  # fmt: skip
    assert "dist ultralytics" not in found
    assert "dist onnxruntime" in code.closure(["pipelines.stages.precision.timing"])


def test_a_setting_whose_content_cannot_be_told_is_an_error(tmp_path):
    @dataclass(frozen=True)
    class Stage:
        what: Any

    with (tmp_path / "x").open("w") as file, pytest.raises(UntellableError, match="no content"):
        fingerprint.key(Stage(file), [])


def test_the_code_that_makes_a_layers_problem_is_in_the_key_of_its_solution():
    layer = Layer("a", "a.weight", (1, 1), 1)

    def key(problem):
        return fingerprint.key(solver(), [LayerInput(layer, problem, "k"), Keyed(3, "3")])

    assert key(lambda: None) == key(lambda: None) != key(os.getcwd)


def test_a_network_counts_by_its_tensors_its_attributes_and_its_code():
    def net(change=lambda net: None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        change(made)
        return fingerprint.content(made)

    changes = [
        lambda n: n[0].weight.data[0].add_(1e-6),
        lambda n: n[1].running_mean.add_(1e-6),
        lambda n: setattr(n[1], "eps", 1e-4),
        lambda n: setattr(n[0], "gain", -1.0),
        lambda n: n[0].register_forward_hook(lambda m, x, y: y + 1),
        lambda n: n.append(nn.ReLU()),
        lambda n: n.train(False),
    ]
    assert net() == net()
    assert len({net(), *map(net, changes)}) == 1 + len(changes)
