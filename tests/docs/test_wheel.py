"""README.md and docs/extending.md from the wheel, in an environment without this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks

pytestmark = pytest.mark.long

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables of a shell in which the wheel is installed; its dependencies are those here."""
    source, wheels = (tmp_path_factory.mktemp(name) for name in ("source", "wheels"))
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    subprocess.run([sys.executable, "-c", BUILD, wheels], cwd=source, check=True)
    (wheel,) = wheels.glob("*.whl")
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, symlinks=True)
    python = str(home / "bin" / "python")
    subprocess.run(
        ["uv", "pip", "install", "-q", "--no-deps", "--python", python, wheel], check=True
    )
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "here.pth").write_text(
        sysconfig.get_paths()["purelib"] + "\n"
    )  # not its .pth files
    found = subprocess.run([python, "-c", "import pipelines; print(pipelines.__file__)"],
                           cwd=home, capture_output=True, text=True, check=True)  # fmt: skip
    assert Path(found.stdout.strip()).is_relative_to(home)
    return {
        **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "OBLIQ_CACHE": str(tmp_path_factory.mktemp("store")),
    }


def script(page):
    """All that the page says, as one shell script; a Python block has the names of those before."""
    lines, before = ["set -e"], ""
    for block in blocks(page):
        if block.file:
            lines += [f"mkdir -p $(dirname {block.file})", f"cat > {block.file} <<'END'"]
            lines += [block.text + "END"]
        elif block.language == "sh" and not block.marks:
            lines.append(block.text)
        elif block.language == "python" and not block.marks:
            before += block.text
            lines += ["python - <<'END'", before + "END"]
    return "\n".join(lines)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "extending.md"], ids=str)
def test_a_page_works_with_the_wheel_in_an_empty_folder(page, environment, tmp_path):
    (tmp_path / "all.sh").write_text(script(page))
    (tmp_path / "empty").mkdir()
    done = subprocess.run(["bash", tmp_path / "all.sh"], cwd=tmp_path / "empty", env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]


def test_a_changed_method_of_ones_own_is_computed_again(environment, tmp_path):
    method = tmp_path / "mine.py"
    code = "def quantize(problem, grid):\n    return grid.round({} * problem.W)\n"
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(
        "_target_: mine.quantize\n_partial_: true\n"
    )
    losses = []
    for number, factor in enumerate(("1", "1", "0.8")):
        method.write_text(code.format(factor))
        words = ["method=mine", "calibrate.images=64", "baseline.budget=0", "tracking=none"]
        command = ["obliq", "--config-dir", "conf", *words, f"hydra.run.dir=out{number}"]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        text = (tmp_path / f"out{number}" / "results.json").read_text()
        losses.append(text.split('"loss": ')[2].split(",")[0])
        cached = '"quantize": true' in text
        assert cached == (number == 1)
    assert losses[0] == losses[1] != losses[2]
