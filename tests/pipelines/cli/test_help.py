from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import yaml

from pipelines.cli import help
from pipelines.cli.overrides import CONF, check

ROOT = Path(__file__).parents[3]
LINES = help.text(CONF).splitlines()
SETTINGS = [line for line in LINES if re.match(r"  [a-z_.]+=", line)]


def test_the_help_fits_on_a_screen_and_a_half():
    assert len(LINES) <= 36 and max(map(len, LINES)) <= 100


def test_fifteen_settings_have_a_line_each_and_every_one_exists():
    names = [line.split("=")[0].strip() for line in SETTINGS]
    assert len(names) == len(set(names)) == 15
    check([f"{name}=" for name in names])


def test_every_setting_and_choice_that_is_named_is_there():
    named = [word for line in LINES for word in re.findall(r"\b[a-z_.]+=[\w,./<>-]*", line)]
    plain = [re.sub(r"=[A-Z/].*", "=", word.rstrip(".,")) for word in named]
    check([word for word in plain if not word.startswith("hydra")])


def test_defaults_in_the_help_are_those_of_the_configuration():
    text = " ".join(LINES)
    run = yaml.safe_load((CONF / "run.yaml").read_text())
    mixed = yaml.safe_load((CONF / "precision" / "mixed.yaml").read_text())
    chosen = {key: value for entry in run["defaults"][1:] for key, value in entry.items()}
    assert f"bits={run['bits']} " in text and f"seed={run['seed']} " in text
    assert run["act_bits"] is None and run["calibrate"]["images"] is None
    assert f"calibrate.max_images={run['calibrate']['max_images']}" in text
    assert f"precision.target={mixed['target']}" in text
    for group in ("method", "tracking", "machine"):
        line = next(line for line in SETTINGS if line.startswith(f"  {group}="))
        assert f" {chosen[group]} (default), " in line


def asked(*words):
    code = (
        "import sys; sys.argv[1:] = {!r}\nfrom pipelines.__main__ import main\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    return subprocess.run(
        [sys.executable, "-c", code.format(list(words))], cwd=ROOT, capture_output=True, text=True
    )


def test_help_and_version_come_without_torch_and_hydra():
    for words in (["--help"], ["-h"], ["bits=3", "--help"], ["--version"]):
        done = asked(*words)
        loaded = set(done.stderr.split())
        assert done.returncode == 0 and "pipelines.cli.help" in loaded
        assert not loaded & {"torch", "hydra", "omegaconf", "lightning", "rich", "pipelines.run"}
    assert done.stdout == f"obliq {metadata.version('obliq')}\n"


def test_commands_have_their_own_help():
    assert not help.answered(["store", "--help"], CONF)
    assert not help.answered(["bits=3"], CONF)
    assert not help.answered(["--help-all"], CONF)
