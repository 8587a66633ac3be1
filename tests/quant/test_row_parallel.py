"""Row-parallel quantization: its limits are GPTQ and OBQ, and between them a dense reference."""

from __future__ import annotations

import io

import numpy as np
import pytest
import reference
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from pipelines.models.cifar_resnet import CifarResNet
from quant import hessian, layers
from quant.grid import fit
from quant.methods import obq, row_parallel, rtn
from quant.order import ORDERS
from quant.problem import LayerProblem

GRIDS = {
    "row": {"granularity": "channel", "symmetric": False, "search": "minmax"},
    "tensor, mse": {"granularity": "tensor", "symmetric": False, "search": "mse"},
    "columns, mse": {"granularity": "group", "symmetric": False, "search": "mse", "group_size": 4},
}


def problem(g, r, c, seed):
    return LayerProblem(
        reference.random_weights(g, r, c, seed), reference.random_hessian(g, c, seed)
    )


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize(("g", "r"), [(1, 1), (3, 5)])
@pytest.mark.parametrize("block", [20, 64])
def test_one_refined_block_over_all_columns_is_obq(order, kind, g, r, block):
    layer = problem(g, r, 20, seed=1)
    grid = fit(layer.W, 3, **GRIDS[kind])
    Q = row_parallel.quantize(layer, grid, order=order, block_size=block, refine=True, cd_passes=0)
    close(Q, obq.quantize(layer, grid))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("bits", [2, 4])
def test_without_refinement_it_is_sequential_elimination_in_the_named_order(order, kind, bits):
    layer = problem(2, 3, 11, seed=bits)
    grid = fit(layer.W, bits, **GRIDS[kind])
    columns = reference.order(layer.W, layer.H, grid, order)
    expected = reference.each_row(reference.gptq, layer.W, layer.H, grid, columns)
    for block in (1, 4, 11):
        Q = row_parallel.quantize(
            layer, grid, order=order, block_size=block, refine=False, cd_passes=0
        )
        close(Q, expected)


@pytest.mark.parametrize("order", ["natural", "diag", "sensitivity"])
@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("block", [1, 3, 4, 9])
@pytest.mark.parametrize("bits", [2, 3])
def test_refined_blocks_equal_choosing_and_refitting_within_each(order, kind, block, bits):
    layer = problem(2, 2, 10, seed=block + bits)
    grid = fit(layer.W, bits, **GRIDS[kind])
    columns = reference.order(layer.W, layer.H, grid, order)
    expected = reference.each_row(
        reference.greedy_in_blocks, layer.W, layer.H, grid, columns, block
    )
    Q = row_parallel.quantize(layer, grid, order=order, block_size=block, refine=True, cd_passes=0)
    close(Q, expected)


def test_sweeps_are_coordinate_descent_on_the_result_without_them():
    layer = problem(2, 3, 10, seed=3)
    grid = fit(layer.W, 2, **GRIDS["row"])
    options = {"order": "diag", "block_size": 4, "refine": True}
    start = row_parallel.quantize(layer, grid, **options, cd_passes=0)
    expected = reference.each_row(reference.descend, layer.W, layer.H, grid, start, 2)
    polished = row_parallel.quantize(layer, grid, **options, cd_passes=2)
    close(polished, expected)
    assert not torch.equal(polished, start)


def test_the_memory_bound_changes_no_result():
    layer = problem(2, 9, 24, seed=3)
    grid = fit(layer.W, 2, **GRIDS["columns, mse"])
    options = {"order": "sensitivity", "block_size": 8, "refine": True, "cd_passes": 1}
    free = row_parallel.quantize(layer, grid, **options)
    assert torch.equal(row_parallel.quantize(layer, grid, **options, max_bytes=1), free)


def test_the_memory_bound_reaches_the_refinement(monkeypatch):
    bounds = []

    def greedy(W, Hinv, grid, *, max_bytes):
        bounds.append(max_bytes)
        return grid.round(W)

    monkeypatch.setattr(row_parallel, "greedy", greedy)
    layer = problem(1, 2, 6, seed=0)
    grid = fit(layer.W, 2, **GRIDS["row"])
    row_parallel.quantize(
        layer, grid, order="diag", block_size=3, refine=True, cd_passes=0, max_bytes=12345
    )
    assert bounds == [12345, 12345]


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_lies_on_the_grid_in_the_weights_dtype(refine, dtype):
    layer = problem(2, 5, 20, seed=2)
    layer = LayerProblem(layer.W.to(dtype), layer.H)
    grid = fit(layer.W, 3, **GRIDS["columns, mse"])
    Q = row_parallel.quantize(layer, grid, order="diag", block_size=6, refine=refine, cd_passes=1)
    assert Q.dtype == dtype
    assert torch.equal(grid.round(Q), Q)


def test_better_refinement_and_sweeps_lose_less_on_correlated_inputs():
    layer = problem(1, 64, 64, seed=6)
    grid = fit(layer.W, 3, **GRIDS["row"])

    def loss(**options):
        return float(layer.loss(row_parallel.quantize(layer, grid, order="diag", **options)).sum())

    plain = loss(block_size=16, refine=False, cd_passes=0)
    refined = loss(block_size=32, refine=True, cd_passes=0)
    polished = loss(block_size=32, refine=True, cd_passes=3)
    assert polished < refined < plain < float(layer.loss(grid.round(layer.W)).sum())


@pytest.fixture(scope="module")
def real_layers(data_root):
    """Three convolutions of a trained ResNet-20 with the Hessians of 48 CIFAR-10 images."""
    network = CifarResNet(3, 10).eval()
    weights = load_file(data_root / "weights" / "cifar10_resnet20.safetensors")
    network.load_state_dict({name: t.float() for name, t in weights.items()})
    archive = np.load(data_root / "cifar10_calib2000.npz")
    jpeg, offset = archive["jpeg"], archive["offset"]
    images = [
        np.asarray(Image.open(io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes())).convert("RGB"))
        for i in range(48)
    ]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean[:, None, None]) / std[:, None, None]
    names = ["layer1.1.conv1.weight", "layer2.0.conv1.weight", "layer2.1.conv2.weight"]
    parameters = {n: p for n, p in network.named_parameters() if n in names}
    sums = {name: hessian.HessianSum() for name in names}
    with (
        torch.no_grad(),
        layers.Calls(parameters, lambda name, _, call: call and sums[name].add(call.unfold())),
    ):
        network(x)
    return {
        name: LayerProblem(
            layers.to_matrix(parameters[name].detach(), 1), sums[name].hessian()
        ).prepared(0.01)
        for name in names
    }


@pytest.mark.parametrize("bits", [4, 3])
def test_with_its_defaults_it_loses_less_than_obq_on_real_layers(real_layers, bits, request):
    with initialize_config_dir(str(request.config.rootpath / "conf"), version_base="1.3"):
        method = compose("run", ["experiment=digits", "method=row_parallel"]).method
    options = {k: v for k, v in OmegaConf.to_container(method, resolve=True).items() if k[0] != "_"}
    ratios = []
    for name, layer in real_layers.items():
        grid = fit(layer.W, bits, granularity="channel", symmetric=False, search="mse")
        Q = row_parallel.quantize(layer, grid, **options)
        plain = rtn.quantize(layer, grid)
        assert (plain != Q).float().mean() > 0.1, name
        assert layer.loss(Q).sum() < 0.5 * layer.loss(plain).sum(), name
        ratios.append(float(layer.loss(Q).sum() / layer.loss(obq.quantize(layer, grid)).sum()))
    assert np.exp(np.mean(np.log(ratios))) < 1, ratios
