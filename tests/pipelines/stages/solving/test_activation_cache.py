"""Batches that wait between layers: the same sums, in one pass, in as much memory as is given."""

from __future__ import annotations

import shutil
import threading
from copy import deepcopy

import pytest
import torch
from torch import nn

from pipelines.machine.machine import Machine
from pipelines.stages.solving.activation_cache import ActivationCache
from pipelines.stages.solving.sequential import SequentialInputs
from pipelines.store.artifacts import Keyed
from quant.layers import find

MACHINE = Machine("cpu", 1, "32-true", None)
SETTINGS = ("quantize.inputs=sequential", "baseline.budget=0", "bits=3", "calibrate.images=200")


@pytest.fixture
def networks(digits):
    """The digits network, a copy that is about to be quantized, its layers in order."""
    network, data = digits
    other = deepcopy(network.module)
    layers, _ = find(network.module, next(iter(data.calibration_loader(first=2)))[0])
    return network, other, data, layers


def walked(networks, cache_gb, between=lambda cache: None):
    """What SequentialInputs gives for every layer, each changed a little once it is done."""
    network, other, data, layers = networks
    other.load_state_dict(network.module.state_dict())
    cache, found = ActivationCache(network.module, other, layers, cache_gb), []
    draw = torch.Generator().manual_seed(0)
    passes = []
    handles = [m.register_forward_hook(lambda *a: passes.append(1)) for m in last_of(networks)]
    for layer in layers.values():
        given = Keyed(other, ""), Keyed(data, ""), Keyed(layer, ""), Keyed(cache, "")
        found.append(SequentialInputs(0.01, None).run(network, *given, MACHINE).tensors)
        weight = other.get_parameter(layer.weight)
        weight.data = weight + 0.1 * weight.std() * torch.randn(weight.shape, generator=draw)
        between(cache)
    for handle in handles:
        handle.remove()
    held = len(cache.passes)
    cache.close()
    return found, held, len(passes)


def last_of(networks):
    network, other, _, layers = networks
    first = next(iter(layers.values())).owner
    return [network.module.get_submodule(first), other.get_submodule(first)]


def same(one, other):
    return all(torch.equal(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a)


def test_what_waits_gives_the_same_numbers_as_what_starts_again_in_one_pass(networks):
    threads = threading.active_count()
    again, none, passes = walked(networks, 0)
    waited, held, one = walked(networks, 4)
    layers, batches = len(again), 6
    assert same(again, waited)
    assert none == 0 and held == batches, "96 images, 16 at a time"
    assert passes == 2 * layers * batches - 2 * (batches - 1)  # the first layer is not run past
    assert one == 2 * batches + 1, "both networks, and a look at the order of the layers"
    assert threading.active_count() == threads


@pytest.mark.parametrize("part", [0.3, 0.7])
def test_what_has_no_room_starts_again_and_changes_nothing(networks, part):
    needed = []
    again, *_ = walked(networks, 0)
    walked(networks, 4, lambda cache: needed.append(sum(cache._bytes.values())))
    some, held, _ = walked(networks, part * max(needed) / 1e9)
    assert same(again, some) and 0 < held < 6


def test_a_place_that_is_lost_on_the_way_is_made_up_for(networks):
    """Room for all of them up to the third layer, and for a single one from then on."""
    again, *_ = walked(networks, 0)

    layer = iter(range(99))

    def shrink(cache):
        if next(layer) == 2:
            assert cache.complete
            cache.memory = 1.1 * min(cache._bytes.values())

    some, held, _ = walked(networks, 4, shrink)
    assert same(again, some) and held <= 1


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.a(self.b(self.a(x)))


class Swapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.a(self.b(x))


def test_nothing_waits_where_a_layer_is_used_twice_or_out_of_order():
    x = torch.randn(1, 3, 4, 4)
    twice, swapped = Twice().eval(), Swapped().eval()
    layers, _ = find(twice, x)
    assert not ActivationCache(twice, twice, layers, 4).add(0, x)
    layers, _ = find(swapped, x)
    assert ActivationCache(swapped, swapped, layers, 4).add(0, x)
    assert not ActivationCache(swapped, swapped, dict(reversed(layers.items())), 4).add(0, x)


def test_a_run_gives_the_same_weights_with_and_without_waiting(obliq, own_store, tmp_path):
    shutil.copytree(own_store, other := tmp_path / "other")
    found = [
        obliq(*SETTINGS, f"quantize.cache_gb={gb}", store=store)
        for gb, store in ((0, own_store), (4, other))
    ]
    one, two = ((outcome.folder / "model.safetensors").read_bytes() for outcome in found)
    assert one == two


def test_less_than_no_memory_is_refused(obliq):
    outcome = obliq(*SETTINGS, "quantize.cache_gb=-1")
    assert outcome.status == 1 and "quantize.cache_gb=-1" in outcome.text
