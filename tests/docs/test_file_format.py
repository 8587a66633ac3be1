"""The reader that docs/file-format.md prints, on files of real runs."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from evaluation.evaluator import CollectOutputs
from pipelines.store.store import Store
from quant.grid import Grid
from quant.packing import unpack
from tests.docs.blocks import ROOT, blocks
from tests.docs.commands import build

PAGE = ROOT / "docs" / "file-format.md"
SHORT = ("experiment=digits", "calibrate.images=64", "baseline.budget=0", "report.heatmaps=0")


@pytest.fixture(scope="module")
def read():
    """The function that the page defines."""
    found: dict = {}
    for block in blocks(PAGE):
        if block.language == "python" and "def " in block.text:
            exec(block.text.partition("\nfor name")[0], found)
    return found["read"]


def decoded(path):
    """The weights, by this package's own code."""
    found = {}
    with safe_open(path, "pt") as file:
        for name, layer in json.loads(file.metadata()["obliq"])["layers"].items():
            codes = unpack(file.get_tensor(f"{name}:codes"), layer["bits"], tuple(layer["shape"]))
            scale, zero = (file.get_tensor(f"{name}:{part}") for part in ("scale", "zero"))
            grid = Grid(scale, zero.float(), layer["bits"], layer["group_size"])
            found[layer["weight"]] = grid.decode(codes.float()).reshape(layer["of"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("bits=2",),
        ("bits=3", "grid.granularity=group", "grid.group_size=5"),
        ("bits=4", "grid.granularity=tensor"),
        ("bits=5", "grid.symmetric=true"),
        ("bits=8",),
        ("bits=16",),
    ],
    ids=lambda overrides: overrides[0],
)
def test_the_printed_reader_gives_the_weights_of_a_run(reader, read, overrides):
    words = " ".join(f"'{word}'" for word in ("method=rtn", *SHORT, *overrides))
    outcome = reader.run(f"obliq {words} hydra.run.dir=out")
    assert outcome.status == 0, outcome.text
    path = reader.folder / "out" / "model.safetensors"
    given, expected = read(path), decoded(path)
    assert given.keys() > expected.keys() and len(expected) == 6
    for name, weight in expected.items():
        assert torch.equal(torch.from_numpy(given[name]), weight), name


@pytest.mark.slow
def test_the_network_that_the_page_puts_together_is_the_one_that_was_evaluated(reader, read, store):
    words = [*SHORT, "bits=2"]
    outcome = reader.run(f"obliq {' '.join(words)} hydra.run.dir=out")
    assert outcome.status == 0, outcome.text
    results = json.loads((reader.folder / "out" / "results.json").read_text())
    chain = build(words)
    network = chain.model.load(Store(store))
    chain.data.prepare(network.data_config, 64, 0, 64)
    before = chain.data.metrics(outputs(chain.data, network.module))
    assert before == results["float"]
    state = read(reader.folder / "out" / "model.safetensors")
    module = network.module
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    after = outputs(chain.data, module)
    assert chain.data.metrics(after) == results["quantized"]
    assert results["correction"]["kept"], "or the statistics in the file are not looked at"


def outputs(data, module):
    collect = CollectOutputs(data, module)
    with torch.inference_mode():
        parts = [data.outputs(module, None, batch) for batch in data.test_dataloader()]
    collect.join(parts)
    return collect.outputs
