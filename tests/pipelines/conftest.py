"""The command line in this process, on a store that the tests of a session share."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest

from tests.waiting import PATIENCE


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    text: str
    folder: Path

    @property
    def results(self):
        return json.loads((self.folder / "results.json").read_text())


USERS = ("WANDB_", "OBLIQ_CACHE", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "RAY_ADDRESS")


@pytest.fixture(autouse=True)
def _nothing_of_the_user(monkeypatch, tmp_path):
    """Neither variables nor keys of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith(USERS)]:
        monkeypatch.delenv(name)
    for kind in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{kind}_DIR", str(tmp_path / "user" / kind.lower()))
    monkeypatch.setenv("NETRC", str(tmp_path / "user" / "netrc"))


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory):
    """A store; the digits network is trained there once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def obliq(monkeypatch, capfd, shared_store, tmp_path):
    """obliq("bits=3", ..., store=FOLDER) -> Outcome, without tracking unless asked for."""
    import torch

    from pipelines import run

    count, threads = iter(range(1000)), torch.get_num_threads()

    def command(*words, store=shared_store, folder=None):
        folder = folder or tmp_path / f"run{next(count)}"
        monkeypatch.setenv("OBLIQ_CACHE", str(store))
        own = {word.split("=")[0] for word in words}
        more = [] if "tracking" in own else ["tracking=none"]
        more += [] if {"-m", "hydra.run.dir"} & own else [f"hydra.run.dir={folder}"]
        more += [f"hydra.sweep.dir={folder}"] if "-m" in own else []
        monkeypatch.setattr(sys, "argv", ["obliq", *words, *more])
        capfd.readouterr()
        status = 0
        try:
            run.main()
        except SystemExit as stop:
            status = stop.code or 0
        return Outcome(status, "".join(capfd.readouterr()), folder)

    yield command
    torch.set_num_threads(threads)  # machine.threads=1 of one test is not for the next one


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


@pytest.fixture(scope="session")
def browse(tmp_path_factory):
    """browse(page, script) -> the page's elements after its scripts, and then this one, have run.

    With a script the page's policy is taken off, which would not let it run. The window is as wide
    as a small notebook's screen.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    folder = tmp_path_factory.mktemp("browser")

    def elements(path, script=None, width=1280):
        if script is not None:
            text = POLICY.sub("", path.read_text())
            path = folder / "driven.html"
            path.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
             f"--window-size={width},800", f"--user-data-dir={folder / 'profile'}",
             path.as_uri()],
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert "<html" in done.stdout, done.stderr
        return done.stdout

    return elements


@pytest.fixture(scope="session")
def measure(browse):
    """measure(page, {name: expression}) -> the values of JavaScript expressions on the page."""

    def values(path, expressions, width=1280):
        pairs = ", ".join(f"{json.dumps(name)}: {text}" for name, text in expressions.items())
        mark = "document.body.append(Object.assign(document.createElement('pre'), {id: 'measured', "
        dom = browse(path, f"{mark} textContent: JSON.stringify({{{pairs}}})}}));", width)
        (found,) = re.findall(r'<pre id="measured">(.*?)</pre>', dom, re.DOTALL)
        return json.loads(unescape(found))

    return values


@pytest.fixture(scope="session")
def digits(shared_store):
    """The trained digits network and its images: (network, data), 96 calibration images."""
    from evaluation.digits import Digits
    from pipelines.models.digits import DigitsModel, TrainDigits
    from pipelines.store.store import Store

    config = {
        "input_size": [3, 8, 8],
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    model = DigitsModel(TrainDigits(20, 64, 0.01, 0.01, 0, config))
    network = model.load(Store(shared_store))
    data = Digits(
        root=None, calibration_root=None, batch_size=500, workers=0, skip_bad=False, images=None
    )
    data.prepare(network.data_config, 96, 0, 16)
    return network, data


@pytest.fixture
def own_store(tmp_path, shared_store, digits):
    """A store with the trained network and nothing else."""
    shutil.copytree(shared_store / "TrainDigits", tmp_path / "store" / "TrainDigits")
    return tmp_path / "store"


TINY_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "not", "at")


@pytest.fixture
def tiny_bert(tmp_path):
    """A folder with a random BERT of two layers, its vocabulary, train.tsv and dev.tsv."""
    import numpy as np
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path / "tiny"
    sizes = {"hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 12}
    config = BertConfig(
        vocab_size=len(TINY_WORDS), num_hidden_layers=2, num_attention_heads=2, **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
        for value in model.parameters():
            value.data += 0.2 * torch.randn(value.shape)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(TINY_WORDS) + "\n")
    draw = np.random.default_rng(0)
    for name, count in (("train", 24), ("dev", 30)):
        rows = [
            f"{' '.join(draw.choice(TINY_WORDS[5:], draw.integers(1, 9)))}\t{i % 2}"
            for i in range(count)
        ]
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return folder
