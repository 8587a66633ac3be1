from __future__ import annotations

import functools
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.models.digits import TrainDigits
from pipelines.stages.calibrate import Calibrate
from pipelines.stages.solving.solve import SolveLayer
from pipelines.store import fingerprint
from quant import grid
from quant.methods import gptq, rtn

CODE = '''
"""A module."""
from dataclasses import dataclass
from zoo_of_tests import other

@dataclass(frozen=True)
class Stage:
    """A stage."""
    def run(self, x):
        """Run it."""
        return other.f(x) + 1
'''
OTHER = "def f(x):\n    return 2 * x\n"


@pytest.fixture
def key_of_source(tmp_path, monkeypatch):
    """(stage.py, other.py) -> key of zoo_of_tests.stage.Stage."""
    package = tmp_path / "zoo_of_tests"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(fingerprint, "PACKAGES", ("zoo_of_tests",))

    def key(stage=CODE, other=OTHER):
        (package / "stage.py").write_text(stage)
        (package / "other.py").write_text(other)
        for name in [n for n in sys.modules if n.startswith("zoo_of_tests")]:
            del sys.modules[name]
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        importlib.invalidate_caches()
        fingerprint.source.cache_clear()
        fingerprint.closure.cache_clear()
        fingerprint._spec.cache_clear()
        module = importlib.import_module("zoo_of_tests.stage")
        sys.dont_write_bytecode = before
        return fingerprint.key(module.Stage(), ["input"])

    yield key
    fingerprint.source.cache_clear()
    fingerprint.closure.cache_clear()
    fingerprint._spec.cache_clear()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another text."""'),
        ('    """A stage."""\n', ""),
        ('        """Run it."""\n', "        # run it\n"),
        ("return other.f(x) + 1", "return (\n            other.f(x)\n            + 1\n        )"),
    ],
)
def test_comments_docstrings_and_formatting_are_not_source(key_of_source, old, new):
    assert old in CODE
    assert key_of_source() == key_of_source(CODE.replace(old, new))


def test_a_changed_line_of_code_changes_the_key(key_of_source):
    assert key_of_source() != key_of_source(CODE.replace("+ 1", "+ 2"))


def test_a_changed_line_in_an_imported_module_changes_the_key(key_of_source):
    assert key_of_source() != key_of_source(other=OTHER.replace("2 *", "3 *"))
    assert key_of_source() == key_of_source(other=f"# a remark\n{OTHER}")


def solver(method=rtn.quantize, bits_of_search=80, **options):
    fit = functools.partial(
        grid.fit,
        granularity="channel",
        symmetric=False,
        search="mse",
        group_size=128,
        norm=2.4,
        shrink=bits_of_search,
    )
    return SolveLayer(functools.partial(method, **options), fit, 0.01)


def test_a_partial_counts_by_its_function_and_arguments():
    stages = [
        solver(),
        solver(gptq.quantize, order="diag"),
        solver(gptq.quantize, order="natural"),
        solver(bits_of_search=81),
    ]
    assert len({fingerprint.key(s, ["x"]) for s in stages}) == 4
    assert fingerprint.key(solver(), ["x"]) == fingerprint.key(solver(), ["x"])
    assert fingerprint.key(solver(), ["x"]) != fingerprint.key(solver(), ["y"])


def test_the_code_of_the_method_counts_and_that_of_other_methods_does_not():
    closure = fingerprint.closure(fingerprint.modules(solver(gptq.quantize, order="diag")))
    assert {"quant.methods.gptq", "quant.grid", "quant.problem", "quant.order"} <= set(closure)
    assert "quant.methods.obq" not in closure


@pytest.mark.parametrize(
    "stage", [solver(), Calibrate(2, 2, 1, None, 0), TrainDigits(1, 1, 1.0, 1.0, 0, {})]
)
def test_screen_machine_store_and_tracking_are_outside_the_key(stage):
    closure = set(fingerprint.closure(fingerprint.modules(stage)))
    assert closure and not closure & set(fingerprint.OUTSIDE)
    assert not {name for name in closure if name.startswith("pipelines.reporting")}


def test_what_is_outside_exists():
    for name in fingerprint.OUTSIDE:
        assert importlib.util.find_spec(name) is not None


def test_the_order_of_a_mapping_does_not_count_and_a_list_differs_from_its_reverse():
    assert fingerprint.describe({"a": 1, "b": 2}) == fingerprint.describe({"b": 2, "a": 1})
    assert fingerprint.describe([1, 2]) != fingerprint.describe([2, 1])
    assert fingerprint.describe(Path("a/b")) == "a/b"


def test_a_setting_whose_content_cannot_be_told_is_an_error():
    @dataclass(frozen=True)
    class Stage:
        what: Any

    with pytest.raises(TypeError, match="cannot be part of a stage's key"):
        fingerprint.key(Stage(object()), [])


def test_code_of_a_users_own_package_counts_and_that_of_libraries_does_not(key_of_source):
    own = "zoo_of_tests.stage"
    fingerprint._is_own.cache_clear()
    key_of_source()
    assert fingerprint._is_own("zoo_of_tests")
    assert fingerprint.modules(sys.modules[own].Stage()) == {own}
    for name in ("torch", "hydra", "json", "builtins", "__main__", "not_there"):
        assert not fingerprint._is_own(name), name


def test_without_being_named_anywhere_a_users_own_code_changes_the_key(key_of_source, monkeypatch):
    monkeypatch.setattr(fingerprint, "PACKAGES", ("quant",))
    fingerprint._is_own.cache_clear()
    assert key_of_source() != key_of_source(CODE.replace("+ 1", "+ 2"))
    assert key_of_source() != key_of_source(other=OTHER.replace("2 *", "3 *"))


def test_the_code_of_a_data_set_and_of_its_task_is_in_the_keys_of_its_results():
    from evaluation.coco import Coco

    classes = fingerprint.modules([Coco])
    assert {"evaluation.coco", "evaluation.detection"} <= set(fingerprint.closure(classes))
    keys = {fingerprint.key(solver(), ["x"], given) for given in ([], [Coco], [int])}
    assert len(keys) == 2
