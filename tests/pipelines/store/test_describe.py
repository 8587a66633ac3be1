"""What a value is, as JSON: equal content gives equal JSON, any change of content another one."""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.store.describe import Description, UntellableError


def describe(value):
    return Description().of(value)


@dataclass(frozen=True)
class Settings:
    a: int
    b: Any = None


class Plain:
    def __init__(self, size, gain=1.0):
        self.size, self.gain = size, gain

    def apply(self, x):
        return x * self.gain


class Slots:
    __slots__ = ("a", "b")

    def __init__(self, a):
        self.a = a


class Named(list):
    def __init__(self, name, *items):
        super().__init__(items)
        self.name = name


def closing_over(k):
    def f(x):
        return x * k

    return f


def with_default(k):
    def f(x, k=k, *, also=(k, 1)):
        return x * k

    return f


def linear(seed=0, **attributes):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def hooked(gain):
    module = linear()
    module[0].register_forward_hook(lambda m, x, y: y * gain)
    return module


def in_order(*names):
    return nn.Sequential(OrderedDict((name, nn.ReLU()) for name in names))


DIFFERENT = {
    "numbers": (1, 1.0, True, "1", math.nan, -0.0, 0.0),
    "text and paths": ("a", Path("a"), b"a"),
    "lists": ([1, 2], [2, 1], (1, 2), [[1], 2], {1, 2}),
    "mappings": ({"a": 1}, {"a": 2}, {"b": 1}, {1: "a"}, {"1": "a"}),
    "dataclasses": (Settings(1), Settings(2), Settings(1, Settings(1)), Settings(1, [])),
    "partials": (
        functools.partial(pow, 2),
        functools.partial(pow, 3),
        functools.partial(pow, exp=2),
        functools.partial(divmod, 2),
    ),
    "closures": (closing_over(1), closing_over(2), closing_over(None)),
    "closures over functions": (closing_over(closing_over(1)), closing_over(closing_over(2))),
    "defaults": (with_default(1), with_default(2)),
    "lambdas": (lambda x: x + 1, lambda x: x + 2, lambda y: y - 1, lambda x: abs(x)),
    "bound methods": (Plain(1).apply, Plain(2).apply, Plain(1, 0.5).apply),
    "containers with attributes": (Named("a", 1), Named("b", 1), Named("a", 2), [1]),
    "objects": (Plain(1), Plain(1, 2.0), Slots(1), Slots(2)),
    "arrays": (np.arange(3), np.arange(3.0), np.arange(4), np.arange(3).reshape(3, 1)),
    "tensors": (torch.zeros(2), torch.zeros(2, 1), torch.zeros(2).double(), torch.ones(2)),
    "networks": (
        linear(),
        linear(1),
        linear(gain=-1),
        linear(gain=lambda x: -x),
        linear().train(False),
        hooked(1),
        hooked(2),
    ),
    "order of children": (in_order("a", "b"), in_order("b", "a")),
    "generators": (np.random.default_rng(0), np.random.default_rng(1)),
    "torch generators": (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("values", DIFFERENT.values(), ids=DIFFERENT)
def test_other_content_is_another_description(values):
    texts = [repr(describe(value)) for value in values]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    "build",
    [
        lambda: {"a": [1, 2.5, None], "b": {3, 4}},
        lambda: functools.partial(closing_over(3), x=Settings(1, Plain(2))),
        lambda: linear(gain=Plain(3)),
        lambda: hooked(3),
        lambda: Plain(np.arange(3)).apply,
        lambda: np.random.default_rng(3),
    ],
)
def test_the_same_content_made_twice_is_the_same_description(build):
    assert describe(build()) == describe(build())


def test_the_order_of_a_mapping_does_not_count():
    assert describe({"a": 1, "b": 2}) == describe({"b": 2, "a": 1})


def test_a_value_that_holds_itself_is_described():
    def ring(value):
        x = Plain(value)
        x.size = [x, value]
        return x

    assert describe(ring(1)) == describe(ring(1)) != describe(ring(2))


def test_what_has_no_content_is_an_error_that_names_it(tmp_path):
    with pytest.raises(UntellableError, match="lock"):
        describe(Settings(1, threading.Lock()))
    with (tmp_path / "x").open("w") as file, pytest.raises(UntellableError, match="no content"):
        describe({"file": file})


def test_functions_from_no_file_count_by_their_code_and_the_globals_that_they_use():
    def typed(text, name="f"):
        scope = {"__name__": "__main__"}
        exec(text, scope)
        return describe(scope[name])

    assert typed("def f(x):\n    return x + 1") == typed("def f(x):\n\n    return x + 1")
    assert typed("def f(x):\n    return x + 1") != typed("def f(x):\n    return x + 2")
    helper = "def g(x):\n    return {}\ndef f(x):\n    return g(x)"
    assert typed(helper.format("x")) != typed(helper.format("-x"))
    scale = "k = {}\ndef f(x):\n    return k * x"
    assert typed(scale.format(1)) != typed(scale.format(2))


def test_the_modules_on_the_way_are_told():
    description = Description()
    description.of(functools.partial(closing_over(Plain(1)), y=nn.ReLU()))
    assert {__name__, "torch.nn.modules.activation"} <= description.modules


def test_a_decorated_function_is_told_with_the_module_of_its_wrapper():
    @functools.wraps(pow)
    def wrapper(*args):
        return args

    description = Description()
    description.of(wrapper)
    assert __name__ in description.modules
