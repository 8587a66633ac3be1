"""Sensitivity against one dense refit a weight; its clustering by column on made-up maps."""

from __future__ import annotations

import pytest
import reference
import torch

from quant.grid import fit
from quant.problem import LayerProblem
from quant.sensitivity import clustering, heatmap, sensitivity


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("width", [None, 4])
def test_sensitivity_is_the_least_loss_of_fixing_one_weight_alone(width):
    W, H = reference.random_weights(2, 3, 9, seed=1), reference.random_hessian(2, 9, seed=1)
    granularity = "channel" if width is None else "group"
    grid = fit(W, 2, granularity=granularity, symmetric=False, search="mse", group_size=width or 1)
    S = sensitivity(LayerProblem(W, H), grid)
    s, z = reference.spread(grid, 2, 3, 9)
    for a, i, j in torch.cartesian_prod(*(torch.arange(n) for n in W.shape)).tolist():
        w = W[a, i]
        q = reference.nearest(w[j], s[a, i, j], z[a, i, j], 2)
        least = reference.loss(reference.refit(w, H[a], {j: q}), w, H[a])
        assert float(S[a, i, j]) == pytest.approx(least, rel=0, abs=1e-9)


def test_a_map_of_uniform_columns_clusters_entirely():
    S = draw(2, 1, 30, seed=0).exp().expand(2, 40, 30)
    assert clustering(S) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_independent_values_do_not_cluster(seed):
    assert clustering(draw(3, 64, 48, seed=seed).exp()) < 0.02


def test_clustering_grows_with_the_share_of_the_columns_and_is_the_share_of_the_variance():
    column, own = draw(1, 1, 400, seed=1), draw(1, 60, 400, seed=2)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        S = (share**0.5 * column + (1 - share) ** 0.5 * own).exp()
        assert clustering(S) == pytest.approx(share, abs=0.06)


def test_clustering_of_a_few_rows_is_not_taken_for_chance():
    scores = [clustering(draw(1, 2, 200, seed=seed).exp()) for seed in range(10)]
    assert sum(scores) / 10 < 0.1  # the plain share between columns would be 0.5


def test_clustering_is_blind_to_the_unit_of_sensitivity_and_to_a_few_weights_on_the_grid():
    column, own = draw(1, 1, 100, seed=1), draw(1, 60, 100, seed=2)
    S = (column + own).exp()
    assert clustering(1e-8 * S) == pytest.approx(clustering(S), abs=1e-9)
    S[0, 0, :3] = 0
    assert clustering(S) > 0.3


@pytest.mark.parametrize(
    "S", [torch.ones(5, 1, 9), torch.zeros(1, 5, 9), torch.ones(2, 5, 9)],
    ids=["one row", "all on the grid", "constant"],
)  # fmt: skip
def test_where_nothing_can_cluster_the_figure_is_zero(S):
    assert clustering(S) == 0


def test_a_heatmap_averages_cells_of_stacked_groups():
    S = draw(2, 4, 6, seed=3).square()
    picture = heatmap(S, 4, 3)
    assert picture.shape == (4, 3)
    stacked = S.reshape(8, 6)
    expected = torch.stack([
        torch.stack([stacked[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(3)])
        for i in range(4)
    ])  # fmt: skip
    torch.testing.assert_close(picture, expected, rtol=0, atol=1e-9)


def test_a_heatmap_is_never_larger_than_the_map_itself():
    S = draw(1, 3, 5, seed=3).square()
    assert torch.equal(heatmap(S, 100, 100), S[0])
