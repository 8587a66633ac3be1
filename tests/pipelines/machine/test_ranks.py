"""Sharing batches and tasks, and the store between several processes, here threads."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pipelines.machine.ranks import Ranks
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import Store

STAGES = Path(__file__).parents[3] / "pipelines" / "stages"


def batches(loader):
    return [batch[0].tolist() for batch in loader]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 4, 30, 200])
@pytest.mark.parametrize("total", [1, 16, 101, 120])
def test_the_batches_of_all_processes_are_those_of_one_each_once(world, size, total):
    loader = DataLoader(TensorDataset(torch.arange(total)), batch_size=size)
    whole = batches(loader)
    shares = [batches(Ranks(rank, world).share(loader)) for rank in range(world)]
    for number, batch in enumerate(whole):
        assert shares[number % world][number // world] == batch
    assert sum(map(len, shares)) == len(whole)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_tasks_are_shared_out_once_and_nearly_as_evenly_as_can_be(world):
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        costs = torch.randint(1, 50, (7,), generator=draw).tolist()
        shares = [Ranks(rank, world).mine(costs) for rank in range(world)]
        assert sorted(itertools.chain(*shares)) == list(range(7))
        assert all(share == sorted(share) for share in shares)
        best = min(
            max(sum(c for c, r in zip(costs, chosen, strict=True) if r == k) for k in range(world))
            for chosen in itertools.product(range(world), repeat=7)
        )
        assert max(sum(costs[i] for i in share) for share in shares) <= best * (4 / 3)


class Meeting:
    """Where threads that stand for processes exchange what they have."""

    def __init__(self, world):
        self.barrier = threading.Barrier(world, timeout=20)
        self.values = [None] * world


@dataclass(frozen=True, eq=False)
class Threads(Ranks):
    meeting: Meeting | None = None

    def gather(self, value):
        meeting = self.meeting
        meeting.values[self.rank] = value
        meeting.barrier.wait()
        found = list(meeting.values)
        meeting.barrier.wait()
        return found

    def broadcast(self, value):
        return self.gather(value)[0]


def in_all(world, work):
    """work(ranks) in so many threads; what each returns, or raises."""
    meeting = Meeting(world)

    def one(rank):
        try:
            return work(Threads(rank, world, meeting=meeting))
        except (ValueError, threading.BrokenBarrierError) as err:
            meeting.barrier.abort()
            return err

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(one, range(world)))


def test_all_processes_get_the_union_of_what_each_has_some_of():
    mine = [{"a": 1, "d": 4}, {}, {"b": 2}]
    found = in_all(3, lambda ranks: ranks.union(mine[ranks.rank]))
    assert found == [{"a": 1, "b": 2, "d": 4}] * 3
    assert Ranks().union(mine[0]) == mine[0]


def test_what_all_have_comes_in_the_order_of_the_batches():
    mine = {0: ["a", "d", "g"], 1: ["b", "e"], 2: ["c", "f"]}
    found = in_all(3, lambda ranks: ranks.in_order(mine[ranks.rank]))
    assert found == [list("abcdefg")] * 3


def test_one_process_leads_and_all_answer_the_same_questions():
    asked = {0: [], 1: [], 2: []}

    def search(ask):
        return sum(ask(question) for question in (3, 1, 4))

    def work(ranks):
        def answer(question):
            asked[ranks.rank].append(question)
            return 10 * question

        lead = search if ranks.rank == 0 else None
        return ranks.led(lead, answer)

    assert in_all(3, work) == [80] * 3
    assert list(asked.values()) == [[3, 1, 4]] * 3


@dataclass(frozen=True)
class Double:
    """Counts its runs by value."""

    ran: ClassVar[list[int]] = []
    name: str = field(default="double")

    def run(self, value):
        self.ran.append(value.value)
        return Artifact({"x": torch.tensor([2.0 * value.value])}, {"value": value.value})


class DoubleTogether(Double):
    TOGETHER: ClassVar[bool] = True
    ran: ClassVar[list[int]] = []


@pytest.mark.parametrize(("kind", "runs"), [(Double, 1), (DoubleTogether, 3)])
def test_a_stage_runs_in_one_process_or_in_all_and_all_have_its_result(tmp_path, kind, runs):
    kind.ran.clear()

    def work(ranks):
        store = Store(tmp_path / kind.__name__, ranks=ranks)
        return [store.run(kind(), Keyed(3, "three")) for _ in range(2)]

    for first, again in in_all(3, work):
        assert first.tensors["x"].item() == again.tensors["x"].item() == 6
        assert (first.cached, again.cached) == (False, True)
        assert first.key == again.key
    assert kind.ran == [3] * runs
    assert len(list((tmp_path / kind.__name__).rglob("done.json"))) == 1


def test_tasks_of_several_processes_are_each_computed_once(tmp_path):
    Double.ran.clear()
    Store(tmp_path).run(Double(), Keyed(2, "2"))
    advanced = [0] * 3

    def work(ranks):
        def advance(n):
            advanced[ranks.rank] += n

        inputs = [(Keyed(i, str(i)),) for i in range(7)]
        return Store(tmp_path, ranks=ranks).run_each(Double(), inputs, range(7), advance)

    for found in in_all(3, work):
        assert [a.tensors["x"].item() for a in found] == [2.0 * i for i in range(7)]
        assert [a.cached for a in found] == [i == 2 for i in range(7)]
    assert sorted(Double.ran) == list(range(7))
    assert advanced == [7] * 3


def test_processes_with_other_inputs_are_told_so(tmp_path):
    def work(ranks):
        return Store(tmp_path, ranks=ranks).run(Double(), Keyed(1, f"of {min(ranks.rank, 1)}"))

    found = in_all(2, work)
    assert "do not have the same inputs for Double" in str(found[1])


@pytest.mark.parametrize("path", sorted(STAGES.glob("*.py")), ids=lambda path: path.stem)
def test_a_stage_that_runs_networks_on_all_processes_says_so(path):
    """Where rank 0 alone called the trainer, it would wait for the others for ever."""
    source = path.read_text()
    uses = any(f"machine.{loop}(" in source for loop in ("predict", "test", "fit"))
    assert ("TOGETHER: ClassVar[bool] = True" in source) >= uses
