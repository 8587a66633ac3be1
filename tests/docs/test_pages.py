"""Every command of README.md and docs/ is run, every Python block executed, every file written."""

from __future__ import annotations

import json
import os
import sys

import pytest
import yaml

from tests.docs.blocks import PAGES, ROOT, blocks
from tests.docs.commands import build, composed, each_value_once

names = [str(page.relative_to(ROOT)) for page in PAGES]


def is_run(block, long):
    """Whether a block is run, rather than composed or parsed."""
    if block.needs == "data":
        return long and bool(os.environ.get("OBLIQ_DATA"))
    return not block.needs and (long or "long" not in block.marks)


def follow(page, reader, long=False):
    """Do what a page says, from top to bottom; every block that fails is named."""
    known = {"__name__": "page"}
    failed = []
    for block in blocks(page):
        try:
            do(block, reader, is_run(block, long), known)
        except Exception as error:
            reason = str(error) if isinstance(error, AssertionError) else repr(error)
            failed.append(f"{block.where}: {reason}")
    assert not failed, "\n\n".join(failed)
    return known


def do(block, reader, run, known):
    if block.file:
        path = reader.folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    if block.language == "yaml":
        yaml.safe_load(block.text)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "python":
        code = compile("\n" * block.line + block.text, block.where, "exec")
        if run and not block.file:
            sys.path.insert(0, str(reader.folder))  # as in an interpreter that is started there
            exec(code, known)
            sys.path.remove(str(reader.folder))
    elif block.language == "sh":
        for number, (line, command) in enumerate(block.commands, 1):
            last = number == len(block.commands)
            if run:
                wanted = int(block.marks.get("status", 0)) if last else 0
                succeeds(reader, command, wanted, f"{block.page.name}:{line}")
            else:
                composed(command)


def succeeds(reader, command, wanted, where):
    outcome = reader.run(command)
    assert outcome.status == wanted, (
        f"{where}: `{command}` ended with status {outcome.status} instead of {wanted}:\n"
        f"{outcome.text[-3000:]}"
    )
    assert "is now called" not in outcome.text, f"{where}: an old name in `{command}`"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=names)
def test_a_page_works_as_printed(page, reader):
    follow(page, reader)


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=names)
def test_a_page_works_as_printed_with_what_takes_minutes(page, reader):
    if not any({"long", "needs"} & set(block.marks) for block in blocks(page)):
        pytest.skip("nothing on this page takes minutes")
    follow(page, reader, long=True)


def test_an_impossible_value_and_an_old_name_are_found_without_a_run():
    with pytest.raises(Exception, match="must be one of float, centred, sequential"):
        composed("obliq quantize.inputs=nowhere")
    with pytest.raises(Exception, match="is now called block_size"):
        composed("obliq block=32")
    with pytest.raises(Exception, match="refused with exit status 2"):
        composed("obliq experiment=cifar100")
    with pytest.raises(Exception, match=r"calibrate\.image"):
        composed("python -m pipelines.run calibrate.image=3")


def test_every_value_of_a_sweep_is_composed():
    jobs = list(each_value_once(["bits=2,3", "method=rtn,obq", "seed=1"]))
    assert jobs == [
        ["bits=2", "method=rtn", "seed=1"],
        ["bits=3", "method=rtn", "seed=1"],
        ["bits=2", "method=obq", "seed=1"],
    ]
    assert composed("obliq -m bits=2,3 method=rtn,obq") == 3
    with pytest.raises(Exception, match="refused"):
        composed("obliq -m bits=2,3 method=rtn,obc")
    with pytest.raises(Exception, match="must be one of 32-true"):
        composed("obliq -m machine.precision=32-true,64-true")


def test_a_job_is_built_as_a_run_builds_it():
    chain = build(["model=digits", "data=digits", "method=gptq", "bits=3"])
    assert chain.precision.bits == 3
    assert chain.quantize.solve.method.func.__module__ == "quant.methods.gptq"
