"""Top-1 and top-5 against counting, and logits in the order of the data."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from evaluation.classification import ClassificationData, metrics
from evaluation.evaluator import CollectOutputs
from pipelines.machine.machine import Machine


def collected(collect: CollectOutputs, data: DataLoader) -> dict[str, torch.Tensor]:
    Machine("cpu", 1, "32-true", 1).test("test", collect, data)
    return collect.outputs


class AnyClasses(ClassificationData):
    classes = 4

    def pools(self):
        raise NotImplementedError


TASK = AnyClasses(None, None, 1, 0, False, None)


def loader(n: int, batch_size: int) -> DataLoader:
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, torch.arange(n) % 4), batch_size=batch_size)


def test_metrics_equal_ranking_every_image_by_hand():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(40, 9, generator=generator)
    labels = torch.randint(0, 9, (40,), generator=generator)
    first = five = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        rank = sum(value > row[label] for value in row)
        first += rank == 0
        five += rank < 5
    assert 0 < first < five < 40
    assert metrics(logits, labels) == pytest.approx({"top1": 2.5 * first, "top5": 2.5 * five})


def test_top5_is_left_out_where_five_classes_or_fewer_make_it_idle():
    assert set(metrics(torch.eye(5), torch.arange(5))) == {"top1"}
    assert metrics(torch.eye(6), torch.arange(6)) == {"top1": 100.0, "top5": 100.0}


def test_a_label_that_is_no_class_of_the_network_is_an_error():
    with pytest.raises(ValueError, match=r"0\.\.10 but the network has 10 classes"):
        metrics(torch.zeros(2, 10), torch.tensor([0, 10]))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_logits_come_in_the_order_of_the_data_for_every_batch_size(batch_size):
    network = nn.Linear(6, 4)
    collect = CollectOutputs(TASK, network)
    data = loader(11, batch_size)
    collected(collect, data)
    with torch.no_grad():
        torch.testing.assert_close(collect.outputs["logits"], network(data.dataset.tensors[0]))
    assert collect.outputs["labels"].tolist() == [i % 4 for i in range(11)]
    assert collect.outputs["logits"].dtype == torch.float32
    assert not collect.outputs["logits"].requires_grad


def test_a_second_test_forgets_the_first():
    collect = CollectOutputs(TASK, nn.Linear(6, 4))
    collected(collect, loader(11, 4))
    assert collected(collect, loader(5, 4))["logits"].shape == (5, 4)


class Overflow(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, :4] > 0.5, torch.inf, x[:, :4])


def test_logits_that_are_not_finite_are_an_error_that_counts_them():
    data = loader(11, 4)
    broken = int((data.dataset.tensors[0][:, :4] > 0.5).any(1).sum())
    with pytest.raises(ValueError, match=f"not finite for {broken} of 11 images"):
        collected(CollectOutputs(TASK, Overflow()), data)


def test_a_test_after_a_failed_one_starts_afresh():
    collect = CollectOutputs(TASK, Overflow())
    with pytest.raises(ValueError, match="not finite"):
        collected(collect, loader(11, 4))
    quiet = TensorDataset(torch.zeros(5, 6), torch.zeros(5, dtype=torch.int64))
    assert collected(collect, DataLoader(quiet, batch_size=2))["logits"].shape == (5, 4)


@pytest.mark.parametrize("network", [nn.Unflatten(1, (2, 3)), nn.Linear(6, 5)])
def test_a_network_that_gives_other_than_a_logit_a_class_is_refused(network):
    with pytest.raises(ValueError, match=r"model x returns .* but the data set has 4 classes"):
        TASK.check_network(network, "x", torch.zeros(1, 6))
