"""Passes that stop and go on give what one that does not stop gives, and hold what they need."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quant.calls import Calls
from quant.stepped_forward import SteppedForward, Stop


class Block(nn.Module):
    """A residual block, and a function of torch's in its middle."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return F.relu(self.norm(self.b(F.silu(self.a(x)))) + x, inplace=True)


@pytest.fixture
def net():
    torch.manual_seed(0)
    found = nn.Sequential(nn.Conv2d(3, 4, 3), Block(), Block(), nn.Flatten(), nn.Linear(144, 5))
    return found.eval().requires_grad_(False)


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def to(stepped, weight):
    """Advance to the use of a weight; its input."""
    found = []

    def stop(name, operation, call):
        if call is not None:
            found.append(call.x)
            raise Stop

    with torch.no_grad(), Calls({"it": weight}, stop):
        stepped.advance()
    return found[0] if found else None


def weights(net):
    return [m.weight for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_every_stop_has_the_input_that_the_layers_before_it_give_as_they_are_by_then(net, x):
    wanted, moved = [], []
    stepped = SteppedForward(net, x)
    draw = torch.Generator().manual_seed(2)
    for weight in weights(net):
        moved.append(to(stepped, weight).clone())
        seen = []

        def see(name, operation, call, seen=seen):
            seen.extend([call.x.clone()] if call else [])

        with torch.no_grad(), Calls({"it": weight}, see):
            net(x)
        wanted.append(seen[0])
        weight.data = weight + 0.3 * torch.randn(weight.shape, generator=draw)
    assert len(moved) == 6 and all(map(torch.equal, moved, wanted))
    assert to(stepped, torch.zeros(1)) is None and stepped.done


def test_it_stands_still_until_it_is_advanced_and_close_ends_its_thread(net, x):
    before = threading.active_count()
    passes = [SteppedForward(net, x) for _ in range(5)]
    for stepped in passes:
        to(stepped, weights(net)[2])
    assert threading.active_count() == before + 5
    for stepped in passes:
        stepped.close()
    assert threading.active_count() == before and all(stepped.bytes() == 0 for stepped in passes)


def test_what_it_holds_is_what_it_still_needs(net, x):
    stepped = SteppedForward(net, x)
    to(stepped, weights(net)[0])
    assert stepped.bytes() == x.numel() * 4
    to(stepped, weights(net)[2])  # in the first block: the input of the sum, and of the layer
    inside = 2 * 4 * 6 * 6 * 4
    assert stepped.bytes() - x.numel() * 4 == 2 * inside
    to(stepped, weights(net)[3])  # between the blocks: the sum
    assert stepped.bytes() - x.numel() * 4 == inside


def test_an_error_in_the_pass_is_told_to_who_advances_it(x):
    stepped = SteppedForward(nn.Conv2d(7, 2, 3), x)
    with pytest.raises(RuntimeError, match="channels"):
        stepped.advance()
    assert stepped.done
    stepped.close()


def test_a_pass_may_handle_its_own_errors(x):
    class Tries(nn.Module):
        def forward(self, x):
            try:
                return F.conv2d(x, torch.zeros(2, 9, 1, 1))
            except RuntimeError:
                return x + 1

    stepped = SteppedForward(Tries(), x)
    stepped.advance()
    assert stepped.done


def test_operations_run_in_the_context_of_who_advances_them(net, x):
    stepped = SteppedForward(net, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = to(stepped, weights(net)[5])
        seen = []
        with torch.no_grad(), Calls({"it": weights(net)[5]}, lambda n, o, c: seen.append(c.x)):
            net(x)
    assert found.dtype == seen[0].dtype == torch.bfloat16 and torch.equal(found, seen[0])
    stepped.close()
