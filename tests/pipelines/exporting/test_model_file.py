"""model.safetensors: everything comes back, and whatever is no such file is named."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipelines.exporting import model_file
from quant.activations import Place
from quant.grid import Grid
from quant.layers import Layer
from quant.quantized import QuantizedState, QuantizedWeight
from quant.ranges import TensorGrid


@pytest.fixture
def state():
    draw = torch.Generator().manual_seed(0)
    weights = {}
    for name, bits, groups in (("a", 3, 1), ("b.c", 11, 2)):
        codes = torch.randint(0, 2**bits, (groups, 4 // groups, 9), generator=draw)
        scale, zero = torch.rand(groups, 4 // groups, 3, generator=draw) + 0.1, torch.ones(1)
        layer = Layer(name, f"{name}.weight", (4, 1, 3, 3), groups)
        grid = Grid(scale, zero.expand(scale.shape), bits, group_size=4)
        weights[name] = QuantizedWeight.of(layer, codes, grid)
    rest = {
        "a.bias": torch.randn(4, generator=draw),
        "n": torch.tensor(3),
        "a.scale": torch.ones(2),
    }
    places = {"a": Place("a"), "b:output": Place("b", behind=True)}
    grids = {
        "a": TensorGrid(torch.tensor(0.25, dtype=torch.float64), torch.tensor(3.0), 4),
        "b:output": TensorGrid(torch.tensor(0.5), torch.tensor(0.0), 8),
    }
    return QuantizedState(weights, rest, places, grids)


ABOUT = {"classes": ["é", "b"], "preprocessing": {"mean": [0.5]}}


def test_what_is_saved_is_loaded(state, tmp_path):
    path = tmp_path / "m.safetensors"
    model_file.save(state, ABOUT, path)
    found, about = model_file.load(path)
    assert about == ABOUT
    assert found.places == state.places and found.weights.keys() == state.weights.keys()
    for name, weight in state.weights.items():
        given = found.weights[name]
        assert given.layer == weight.layer and torch.equal(given.codes, weight.codes)
        assert torch.equal(given.dequantized(), weight.dequantized())
        assert given.grid.bits == weight.grid.bits
    for name, grid in state.grids.items():
        given = found.grids[name]
        assert given.bits == grid.bits and torch.equal(given.scale, grid.scale)
        assert given.scale.dtype == grid.scale.dtype and torch.equal(given.zero, grid.zero)
    assert found.rest.keys() == state.rest.keys()
    assert all(torch.equal(found.rest[name], tensor) for name, tensor in state.rest.items())


def test_the_same_network_gives_the_same_bytes(state, tmp_path):
    files = [tmp_path / "one", tmp_path / "two"]
    for path in files:
        model_file.save(state, ABOUT, path)
    assert files[0].read_bytes() == files[1].read_bytes()


def changed(path, change):
    """The same file with other metadata or tensors."""
    with safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()["obliq"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(meta, tensors)
    save_file(tensors, path, metadata={"obliq": json.dumps(meta)})


CHANGES = {
    "a newer one": (lambda meta, tensors: meta.update(format=2), "format 2, this obliq knows 1"),
    "no codes": (lambda meta, tensors: tensors.pop("a:codes"), "damaged.*a:codes"),
    "codes of another length": (
        lambda meta, tensors: tensors.update({"a:codes": torch.zeros(3, dtype=torch.uint8)}),
        "3 bytes do not hold 36 codes of 3 bits",
    ),
    "no layers": (lambda meta, tensors: meta.pop("layers"), "damaged.*layers"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_missing_or_newer_is_named(state, tmp_path, name):
    change, expected = CHANGES[name]
    path = tmp_path / "m.safetensors"
    model_file.save(state, ABOUT, path)
    changed(path, change)
    with pytest.raises(ValueError, match=expected):
        model_file.load(path)


def test_a_file_that_is_cut_off_old_foreign_or_absent_is_one_clear_line(state, tmp_path):
    path = tmp_path / "m.safetensors"
    model_file.save(state, ABOUT, path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="is damaged"):
        model_file.load(path)
    save_file({"a": torch.ones(1)}, path, metadata={"layout": "{}"})
    with pytest.raises(ValueError, match=r"older obliq .* repeat the run"):
        model_file.load(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="no network that obliq has quantized"):
        model_file.load(path)
    path.write_text("no safetensors")
    with pytest.raises(ValueError, match="is damaged"):
        model_file.load(path)
    with pytest.raises(FileNotFoundError, match="is no file"):
        model_file.load(tmp_path)
