"""Freed memory is kept for the next operation, and given back when it is asked for."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import psutil, torch
from pipelines import memory

def resident():
    return psutil.Process().memory_info().rss / 2**20

if {keep}:
    memory.keep_freed()
before = resident()
blocks = [torch.ones(25 * 2**18) for _ in range(20)] + [torch.ones(100 * 2**18)]
last = torch.ones(2**18)  # the end of the heap stays in use
most = resident()
del blocks
freed = resident()
memory.give_back()
print(most - before, freed - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_blocks_stay_until_they_are_given_back(keep):
    run = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    told = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    most, freed, given_back = map(float, told.split())
    assert most > 590  # megabytes
    assert (freed > 590) == keep
    assert given_back < 50
