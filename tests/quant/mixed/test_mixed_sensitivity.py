"""What ranks layers, against plain loops."""

import pytest
import torch

from quant.mixed.sensitivity import METRICS, LayerMeasurements


def known(N=3, B=2):
    draw = torch.Generator().manual_seed(0)
    U = torch.randn(N * B, 4, generator=draw, dtype=torch.float64)
    weights = {}
    for i in range(N):
        W = torch.randn(2 + i, 3, generator=draw, dtype=torch.float64)
        for b in range(B):
            weights[f"l{i}", b] = W, W + 0.1 * torch.randn(2 + i, 3, generator=draw).double()
    return LayerMeasurements(
        (U @ U.T).reshape(N, B, N, B),
        torch.rand(N, B, generator=draw, dtype=torch.float64),
        torch.rand(N, generator=draw, dtype=torch.float64),
        weights,
    )


def test_every_metric_equals_a_plain_loop():
    k = known()
    found = {name: metric(k) for name, metric in METRICS.items()}
    for i in range(3):
        for b in range(2):
            W, Q = k.weights[f"l{i}", b]
            error = sum((q - w) ** 2 for q, w in zip(Q.flatten(), W.flatten(), strict=True))
            size = sum(w**2 for w in W.flatten())
            wanted = {
                "quantization_error": error / size,
                "hessian_trace": k.trace[i] * error / W.numel(),
                "loss_delta": k.divergence[i, b],
                "inter_layer": sum(k.couplings[i, b, j, b] for j in range(3)) / 2,
            }
            for name, value in wanted.items():
                assert float(found[name][i, b]) == pytest.approx(float(value), rel=1e-9), name


def test_parts_of_all_layers_add_up_to_what_they_cost_together():
    k = known()
    together = k.couplings[:, 0, :, 0].sum() / 2
    assert float(METRICS["inter_layer"](k)[:, 0].sum()) == pytest.approx(float(together), rel=1e-9)
