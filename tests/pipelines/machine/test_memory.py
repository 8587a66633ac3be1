"""Freed memory is kept for the next operation, and given back when it is asked for."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys

import pytest
from torch import nn

from pipelines.machine.machine import Machine, memory

ALLOCATOR = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # variables that would set another one
PROGRAM = """
import psutil, torch
from torch import nn

from pipelines.machine import memory
from pipelines.machine.machine import Machine

def resident():
    return psutil.Process().memory_info().rss / 2**20

if {keep}:
    memory.keep_freed({keep})
before = resident()
blocks = [torch.ones(25 * 2**18) for _ in range(20)] + [torch.ones(100 * 2**18)]
last = torch.ones(2**18)  # the end of the heap stays in use
most = resident()
del blocks
freed = resident()
memory.trim()
print(most - before, freed - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
@pytest.mark.parametrize(
    ("keep", "kept"), [(memory.INFERENCE, 600), (memory.TRAINING, 500), (0, 0)]
)
def test_freed_blocks_stay_until_they_are_given_back(keep, kept):
    run = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    plain = {k: v for k, v in os.environ.items() if not k.startswith(ALLOCATOR)}
    told = subprocess.run(run, env=plain, capture_output=True, text=True, check=True).stdout
    most, freed, given_back = map(float, told.split())
    assert most > 590  # megabytes
    assert kept - 10 < freed < kept + 50
    assert given_back < 50


def test_a_training_keeps_small_blocks_only_and_what_follows_large_ones(monkeypatch, tmp_path):
    asked = []

    class Failing:
        def fit(self, *args, **kwargs):
            asked.append("fit")
            raise RuntimeError("in the middle")

    monkeypatch.setattr(
        memory, "keep_freed", lambda largest=memory.INFERENCE: asked.append(largest)
    )
    monkeypatch.setattr(Machine, "_trainer", lambda *args, **kwargs: Failing())
    with pytest.raises(RuntimeError, match="in the middle"):
        Machine("cpu", 1, "32-true", None).fit("train", nn.Identity(), 1, 1, tmp_path)
    assert asked == [memory.TRAINING, "fit", memory.INFERENCE]


SETTLING = """
import gc

from pipelines import ptq
from pipelines.machine import memory

memory.freeze_gc("stages")
first = gc.get_freeze_count()
rest = [[] for _ in range(1000)]
memory.freeze_gc("stages")
print(first > 10_000, gc.get_freeze_count() == first, end=" ")
memory.freeze_gc("Lightning")
print(gc.get_freeze_count() >= first + 1000)
"""


def test_nothing_is_collected_while_modules_are_imported_and_again_after_an_error():
    seen = []

    @memory.importing()
    def fail():
        seen.append(gc.isenabled())
        raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert seen == [False] and gc.isenabled()
    gc.disable()
    try:
        with memory.importing():
            pass
        assert not gc.isenabled(), "somebody else's wish"
    finally:
        gc.enable()


def test_imported_modules_are_frozen_once_and_leave_no_word_on_the_screen_when_they_go():
    found = subprocess.run(
        [sys.executable, "-c", SETTLING], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["True"] * 3
    assert found.stderr == ""  # libraries complain of what is still there at the end
