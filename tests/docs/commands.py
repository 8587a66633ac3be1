"""What a reader types: each command is run in this process, or only composed.

To compose is to do all that a run does before it reads data: check the overrides, let Hydra
compose them, check types, build every stage. It finds renamed settings and impossible values.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pipelines import run
from pipelines.__main__ import main as console_script
from pipelines.chain import Chain
from pipelines.cli import renamed, typecheck
from pipelines.cli.overrides import CONF
from tests.docs.blocks import ROOT

PLAIN = {"mkdir", "ls", "cat", "echo", "head", "cp", "test"}  # left to the shell
ELSEWHERE = {"git", "wandb", "sbatch", "unzip", "open", "ray"}  # only in blocks with `needs`
OPTIONS = {"-m", "--multirun"}
INFORM = {"--help", "--help-all", "--version", "--hydra-help", "--info", "--cfg", "-c"}


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it printed."""

    status: int
    text: str = ""


@dataclass
class Reader:
    """Somebody who types what a page says, in a folder of their own.

    Attributes:
        folder: where they are.
        printed: gives, and forgets, what was printed so far.
    """

    folder: Path
    printed: Callable[[], str] = lambda: ""

    def run(self, line: str) -> Outcome:
        """Run one command."""
        words = shlex.split(line, comments=True)
        name, *rest = words
        if name == "export":
            return self._export(rest)
        if name == "cd":
            self.folder = (self.folder / rest[0]).resolve()
            os.chdir(self.folder)
            return Outcome(0)
        if name in PLAIN:
            done = subprocess.run(line, shell=True, cwd=self.folder, capture_output=True, text=True)
            return Outcome(done.returncode, done.stdout + done.stderr)
        return self._in_process(*_program(words))

    def _export(self, words: list[str]) -> Outcome:
        for word in words:
            name, _, value = word.partition("=")
            os.environ[name] = os.path.expandvars(value)
        return Outcome(0)

    def _in_process(self, program: str, words: list[str]) -> Outcome:
        self.printed()
        status: Any = 0
        argv, sys.argv = sys.argv, [program, *words]
        try:
            if program == "obliq":
                sys.argv += quiet(words)
                console_script()
            elif program == "obliq-report":
                from pipelines.comparing import __main__ as report

                status = report.main(words)
            else:
                sys.path.insert(0, str(self.folder))  # as Python does for a script
                runpy.run_path(str(self.folder / program), run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        finally:
            sys.argv = argv
        return Outcome(
            status if isinstance(status, int) else int(status is not None), self.printed()
        )


def _program(words: list[str]) -> tuple[str, list[str]]:
    """("obliq", its words) of both ways to call it; a script by its file name."""
    if words[:3] == ["python", "-m", "pipelines.run"]:
        return "obliq", words[3:]
    if words[:3] == ["python", "-m", "pipelines.comparing"]:
        return "obliq-report", words[3:]
    if words[0] in ("obliq", "obliq-report"):
        return words[0], words[1:]
    if words[0] == "python" and len(words) > 1 and words[1].endswith(".py"):
        return words[1], words[2:]
    raise ValueError(f"no test knows how to run {words[0]!r}")


def quiet(words: list[str]) -> list[str]:
    """No tracking in a run that does not ask for it."""
    quantizes = not {"export", "store", "table", "reproduce"} & set(words[:1]) and not INFORM & set(
        words
    )
    return ["tracking=none"] if quantizes and not _names(words, "tracking") else []


def _names(words: list[str], setting: str) -> bool:
    return any(word.startswith((f"{setting}=", f"{setting}.")) for word in words)


def composed(line: str) -> int:
    """Compose a command that is not run; gives the number of jobs that were composed.

    A command that obliq does not run is checked as far as that is possible: `make` has the target,
    `pip install obliq[extra]` names an extra.

    Raises:
        Exception: what a user would see.
    """
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets, f"make has no target {words[1]}"
        return 0
    if "install" in words[:3]:
        return _extras(words)
    if words[0] in ELSEWHERE | PLAIN | {"export", "cd", "."}:
        return 0
    program, rest = _program(words)
    if program != "obliq" or rest[:1] in (["export"], ["store"], ["table"], ["reproduce"]):
        return 0
    overrides, folder = _overrides(rest)
    jobs = list(each_value_once([*overrides, *_swept(overrides, folder)]))
    for job in jobs:
        build(job, folder)
    return len(jobs)


def _extras(words: list[str]) -> int:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extras in re.findall(r"obliq\[([^]]*)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(known), f"no extra {extras}: there are {list(known)}"
    return 0


def _overrides(words: list[str]) -> tuple[list[str], str | None]:
    """Overrides as the command line hands them to Hydra, and the folder of --config-dir.

    Raises:
        ValueError: an override that the command line refuses, or an old name.
    """
    old = renamed.overrides(words)[1]
    if old:
        raise ValueError(f"{old[0]}: pages use today's names")
    seen: list[str] = []
    argv, job = sys.argv, run.job
    try:
        sys.argv = ["obliq", *words]
        run.job = lambda: seen.extend(sys.argv[1:])
        if status := run._jobs(run.Screen()):
            raise ValueError(f"refused with exit status {status}")
    finally:
        sys.argv, run.job = argv, job
    folder = None
    kept = []
    rest = iter(seen)
    for word in rest:
        if word in ("--config-dir", "-cd"):
            folder = next(rest)
        elif word.startswith("--config-dir="):
            folder = word.partition("=")[2]
        elif word not in OPTIONS:
            kept.append(word)
    return kept, folder


def _swept(overrides: list[str], folder: str | None) -> list[str]:
    """Overrides that the files of `sweep=` and `hparams=` add, with the first of their values.

    Their other values are those of experiments and methods, which have tests of their own.
    """
    given = {override.partition("=")[0] for override in overrides}
    added: list[str] = []
    for group, _, name in (override.partition("=") for override in overrides):
        places = [Path(place, group, f"{name}.yaml") for place in (folder, CONF) if place]
        file = next((place for place in places if place.is_file()), None)
        if group in ("sweep", "hparams") and file is not None:
            params = OmegaConf.load(file)["hydra"]["sweeper"]["params"]
            added += [
                f"{key}={value if '(' in str(value) else str(value).split(',')[0]}"
                for key, value in params.items()
                if key not in given
            ]
    return added


def each_value_once(overrides: list[str]) -> Iterator[list[str]]:
    """Jobs in which every value of every swept override comes up, instead of all combinations.

    >>> list(each_value_once(["bits=2,3", "seed=0,1", "damping=0.1"]))
    [['bits=2', 'seed=0', 'damping=0.1'], ['bits=3', 'seed=0', 'damping=0.1'],
     ['bits=2', 'seed=1', 'damping=0.1']]
    """
    lists = []
    for parsed in OverridesParser.create().parse_overrides(overrides):
        if not parsed.is_sweep_override():
            lists.append([parsed.input_line])
        elif parsed.is_interval_sweep():
            lists.append([f"{parsed.get_key_element()}={parsed.value().start}"])
        else:
            values = parsed.sweep_string_iterator()
            lists.append([f"{parsed.get_key_element()}={value}" for value in values])
    first = [values[0] for values in lists]
    yield first
    for at, values in enumerate(lists):
        for value in values[1:]:
            yield [*first[:at], value, *first[at + 1 :]]


def build(overrides: list[str], folder: str | None = None) -> Chain:
    """Compose, check and build one job.

    Raises:
        Exception: what is wrong with the settings.
    """
    found = [f"hydra.searchpath=[file://{Path(folder).resolve()}]"] if folder else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("run", overrides=[*overrides, *found], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    OmegaConf.to_container(cfg.hydra, resolve=False)
    settings = {k: v for k, v in OmegaConf.to_container(cfg, resolve=False).items() if k != "hydra"}
    plain = OmegaConf.create(settings)
    whole = OmegaConf.to_container(plain, resolve=True, throw_on_missing=True)
    typecheck.complete(whole, Chain)
    typecheck.check(whole)
    instantiate(plain.machine, _convert_="all")
    instantiate(plain.tracking, _convert_="all")
    return Chain(
        **{name: instantiate(plain[name], _convert_="all") for name in Chain.__dataclass_fields__}
    )
