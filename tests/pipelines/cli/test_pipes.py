"""What becomes of a process whose reader has gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WRITES = """
import os, sys
from pipelines.cli import pipes
with pipes.forgiving():
    for number in range(20000):
        print("line", number, file=sys.{stream})
    sys.{stream}.flush()
    os.write(sys.{stream}.fileno(), b"of a library that is not written in Python")
    print("at the end", file=sys.{other})
    sys.exit(4)
"""


@pytest.mark.parametrize(("stream", "other"), [("stdout", "stderr"), ("stderr", "stdout")])
def test_a_closed_pipe_changes_neither_the_work_nor_its_exit_status(stream, other):
    code = WRITES.format(stream=stream, other=other)
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert getattr(process, stream).readline() == b"line 0\n"
    getattr(process, stream).close()
    text = getattr(process, other).read()
    assert process.wait(60) == 4
    assert text == b"at the end\n", "and no traceback"


def test_a_reader_who_stays_gets_everything_in_order():
    code = WRITES.format(stream="stdout", other="stdout").replace("os.write", "lambda *a: a  # ")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines == [*(f"line {number}" for number in range(20000)), "at the end"]
    assert done.returncode == 4 and done.stderr == ""


def test_streams_that_are_no_pipes_are_left_alone(tmp_path):
    code = (
        "import sys\nfrom pipelines.cli import pipes\nbefore = sys.stdout\n"
        "with pipes.forgiving():\n    print(sys.stdout is before)\n"
    )
    with (tmp_path / "out").open("w") as file:
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=file, check=True)
    assert (tmp_path / "out").read_text() == "True\n"


@pytest.mark.parametrize("words", [["--help"], ["store", "--help"], ["table", "--help"]])
def test_a_command_whose_reader_has_gone_before_it_begins_ends_well(words):
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", *words], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    assert (process.stderr.read(), process.wait(120)) == (b"", 0)
