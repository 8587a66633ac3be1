"""The command line: what a user who gets something wrong sees."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipelines.models.cifar_resnet import CifarResNet

ROOT = Path(__file__).parents[2]


@pytest.fixture
def refused(obliq, monkeypatch, own_store):
    """Run a command that must end with a message before calibration; gives the text."""
    from pipelines.stages.calibrate import Calibrate

    def run(self, *args, **kwargs):
        raise AssertionError("calibration has started")

    monkeypatch.setattr(Calibrate, "run", run)

    def check(*words, store=own_store, **more):  # where no calibration lies either
        found = obliq(*words, store=store, **more)
        assert found.status not in (0, None), found.text
        assert found.status != 130
        assert "calibration has started" not in found.text
        assert "Traceback" not in found.text and '  File "' not in found.text
        assert "✗" in found.text and len(found.text) < 2500
        assert len(found.text.splitlines()) <= 24, "one screen"
        return " ".join(found.text.split())

    return check


QUICK = ("calibrate.images=96", "baseline.budget=0", "report.heatmaps=0")
WORDS = {
    "model=cifar10_resnet2": "did you mean cifar10_resnet20",
    "method=gtpq": "did you mean gptq",
    "experiment=cifar10_resnet": "did you mean cifar10_resnet",
    "bit=3": "did you mean bits",
    "data.rot=/x": "'data.rot': did you mean root? Settings of data: batch_size",
    "grid.serch=mse": "did you mean search",
    "grid=row": "row",
    "cifar10": "did you mean data=cifar10?",
    "foo": "neither a command (export, store, reproduce, table) nor name=value",
    "Store": "did you mean obliq store?",
    "--bits=3": "Settings have no dashes: bits=3",
    "bits=2,3": "-m",
    "bits=0": "bits=0 must be a whole number from 1 to 16",
    "bits=17": "bits=17 must be a whole number from 1 to 16",
    "bits=2.5": "bits=2.5 must be a whole number",
    "bits=abc": "bits='abc' must be a whole number",
    "bits=null": "bits=None must be a whole number",
    "bits=true": "bits=True must be a whole number",
    "damping=0": "damping=0 must lie in (0, 1)",
    "damping=1": "damping=1 must lie in (0, 1)",
    "damping=nan": "must lie in (0, 1)",
    "damping=much": "damping='much' must be a number",
    "act_bits=0": "act_bits=0 must be a whole number from 1 to 16",
    "act_bits=abc": "act_bits='abc' must be a whole number",
    "activations.search=best": "activations.search=best must be one of",
    "activations.percentile=0": "activations.percentile=0 must lie in (50, 100]",
    "activations.images=0": "activations.images=0 must be at least 1",
    "+activations.overrides={stem.0: 99}": "stem.0=99 must be a whole number from 1 to 16",
    "seed=abc": "seed='abc' must be a whole number",
    "seed=-1": "seed=-1 must be",
    "calibrate.images=0": "calibrate.images=0 must be at least 1",
    "calibrate.images=many": "calibrate.images='many' must be a whole number",
    "calibrate.images=100000": "the calibration pool has 1297 images",
    "calibrate.batch_size=0": "calibrate.batch_size=0 must be at least 1",
    "data.batch_size=0": "data.batch_size=0 must be at least 1",
    "data.skip_bad=7": "data.skip_bad=7 must be true or false",
    "method.order=best": "order='best' must be",
    "method.block_size=0": "block",
    "block_size=abc": "block_size='abc' must be a whole number",
    "method.cd_passes=abc": "method.cd_passes='abc' must be a whole number",
    "grid.search=best": "search='best' must be",
    "grid.granularity=cell": "granularity='cell' must be",
    "quantize.inputs=best": "quantize.inputs='best' must be one of float, centred, sequential",
    "batchnorm.mode=best": "batchnorm.mode='best' must be one of",
    "baseline.rows=0": "baseline.rows=0 must be at least 1",
    "+precision.overrides.stem=4": "precision.overrides names 'stem'",
    "+precision.overrides={stem.0: 99}": "stem.0=99 must be a whole number from 1 to 16",
    "machine.accelerator=abacus": "abacus",
    "machine.precision=7": "machine.precision=7 must be text",
    "machine.threads=0": "machine.threads=0 must be at least 1",
    "tracking.mode=best": "tracking.mode='best' must be",
    "report=null": "report=null: a run needs it. Only these may be null: rounding,",
    "machine=null": "machine=null: omit machine=. Valid: cpu, ddp, local",
    "experiment=digits,null": "experiment=null: omit experiment=.",
    "data=cifar10": "data.root is not set",
    "data.root=/photos": "no data= is. Choose data= from cifar10, coco, imagefolder",
    "data=imagenet": "which model? data=imagenet is given, but no model=",
    "data=coco": "take model=yolov5n, model=yolov5s, model=yolov8n",
    "data=sst2": "take model=sst2_bert",
    "model=timm": "which data set? model=timm is given, but no data=",
    "model=transformers": "which data set?",
    "tags=[a": 'Type "tags=[a]"',
    "precision.overrides.stem=4": "precision.overrides names 'stem'",
    "precision.overrides.stem.1=4": "did you mean stem.0",
    "activations.overrides.clasifier=4": "did you mean classifier",
    "tracking.notes=1.5": "must be text or null. For text, type \"tracking.notes='1.5'\"",
}


@pytest.mark.parametrize(("word", "expected"), WORDS.items(), ids=WORDS.keys())
def test_a_wrong_word_gets_a_message_that_says_what_to_do(refused, word, expected):
    more = ["tracking=offline"] if word.startswith("tracking.") else []
    more += ["model=digits", "data.root=null"] if word == "data=cifar10" else []
    assert expected in refused(word, *more)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model=timm", "data=digits"], "model=timm model.name=resnet50"),
        (["model=timm", "data=digits", "model.name=resnet51"], "Nearest: resnet51q"),
        (["model=yolo", "data=coco"], "which detector? Give model.name=yolov8n.pt"),
        (["model=transformers", "data=sst2"], "which text model? Give model.name=NAME"),
        (["experiment=digits", "data=coco", "data.root=/nowhere"], "needs a detector"),
        (["experiment=digits", "data=voc", "data.root=/nowhere"], "needs logits [1, 21, 8, 8]"),
        (["experiment=digits", "data=sst2", "data.root=/nowhere"], "holds sentences"),
        (["experiment=digits", "data=imagenet", "data.root=/nowhere"], "has 1000 classes"),
        (["experiment=imagenet_resnet18", "data.root=null", "model.pretrained=false"], "data.root"),
    ],
)
def test_a_wrong_model_gets_a_message_that_says_what_to_do(refused, words, expected):
    assert expected in refused(*words)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "weights [v2].safetensors"
    save_file(CifarResNet(n=3, classes=10).state_dict(), path)
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def rename_a_key(path):
    state = load_file(path)
    state["surprise"] = state.pop("conv1.weight")
    save_file(state, path)


def put_a_nan(path):
    state = load_file(path)
    state["conv1.weight"][0] = torch.nan
    save_file(state, path)


class Code:
    def __reduce__(self):
        return print, ("code has run",)


BREAKS = {
    "missing": (Path.unlink, "does not exist"),
    "corrupt": (cut, "download it again"),
    "keys that do not fit": (rename_a_key, "missing: conv1.weight"),
    "not finite": (put_a_nan, "conv1.weight"),
    "a pickle with code": (
        lambda path: torch.save({"a": Code()}, path),
        "unpickling it would call builtins.print",
    ),
}


@pytest.mark.parametrize(("damage", "expected"), BREAKS.values(), ids=BREAKS.keys())
def test_a_bad_checkpoint_is_named_with_what_to_do(refused, checkpoint, damage, expected):
    if "pickl" in expected:
        checkpoint = checkpoint.rename(checkpoint.with_suffix(".pt"))
    damage(checkpoint)
    text = refused(
        "model=cifar10_resnet20", "data=digits", "calibrate.images=8",
        f"model.checkpoint='{checkpoint}'",
    )  # fmt: skip
    assert expected in text and checkpoint.name in text, "brackets must be printed"
    assert "code has run" not in text


@pytest.fixture
def folder(tmp_path):
    """Ten classes of three images."""
    root = tmp_path / "images [v2]"
    draw = np.random.default_rng(0)
    for name in "abcdefghij":
        (root / name).mkdir(parents=True)
        for i in range(3):
            pixels = draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def on(folder, *more):
    return [
        "model=cifar10_resnet20", "data=imagenet", "data.classes=10", "calibrate.images=8",
        f"data.root='{folder}'", "data.workers=0", *more,
    ]  # fmt: skip


def test_an_empty_image_folder_is_named(refused, tmp_path, checkpoint):
    (tmp_path / "empty").mkdir()
    text = refused(*on(tmp_path / "empty", f"model.checkpoint='{checkpoint}'"))
    assert str(tmp_path / "empty") in text


def test_a_missing_image_folder_is_named(refused, tmp_path, checkpoint):
    text = refused(*on(tmp_path / "nowhere", f"model.checkpoint='{checkpoint}'"))
    assert str(tmp_path / "nowhere") in text


def test_labels_out_of_range_are_named(refused, tmp_path, folder, checkpoint):
    flat = tmp_path / "flat"
    (flat / "images").mkdir(parents=True)
    names = []
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        path.rename(flat / "images" / f"{i}.png")
        names.append(f"{i}.png {i}")
    (flat / "labels.txt").write_text("\n".join(names))
    text = refused(*on(flat, f"model.checkpoint='{checkpoint}'"))
    assert "outside 0..9" in text and "10.png has 10" in text


def test_unreadable_images_are_counted_and_named(refused, folder, checkpoint):
    for name in "abcdefg":
        (folder / name / "1.png").write_bytes(f"no image {name}".encode())
    text = refused(*on(folder, f"model.checkpoint='{checkpoint}'"))
    assert "7 of 30 images cannot be read" in text and "and 2 more" in text
    assert "data.skip_bad=true" in text


def test_too_many_classes_for_the_network_is_told(refused, folder, checkpoint):
    for name in "cdefghij":
        shutil.rmtree(folder / name)
    words = on(folder, f"model.checkpoint='{checkpoint}'", "data.classes=2", "calibrate.images=2")
    assert "returns [10] values per image, but the data set has 2 classes" in refused(*words)


def test_unreadable_images_are_left_out_where_that_is_asked_for(
    obliq, folder, checkpoint, tmp_path
):
    for name in "dh":
        (folder / name / "1.png").write_bytes(f"no image {name}".encode())
    words = on(
        folder, f"model.checkpoint='{checkpoint}'", "data.skip_bad=true", "method=rtn",
        "baseline.budget=0", "report.heatmaps=0",
    )  # fmt: skip
    first = obliq(*words, store=tmp_path / "store")
    assert first.status == 0, first.text
    assert sorted(first.results["skipped_images"]) == ["d/1.png", "h/1.png"]
    second = obliq(*words, store=tmp_path / "store")
    assert all(second.results["cached"].values())
    assert second.results["skipped_images"].keys() == first.results["skipped_images"].keys()
    assert second.results["n_images"] == first.results["n_images"] <= 22


def test_an_output_folder_that_cannot_be_written_is_named(refused, tmp_path):
    (tmp_path / "file").write_text("")
    text = refused("bits=3", folder=tmp_path / "file" / "run")
    assert str(tmp_path / "file") in text and "hydra.run.dir" in text


def test_a_store_that_cannot_be_written_is_named(refused, tmp_path):
    (tmp_path / "file").write_text("")
    text = refused("bits=3", store=tmp_path / "file" / "store")
    assert str(tmp_path / "file" / "store") in text and "OBLIQ_CACHE" in text


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(disk)]
    if subprocess.run(options, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_full_store_and_a_read_only_output_folder_are_told(refused, small_disk, tmp_path):
    text = refused("bits=3", store=small_disk)
    assert str(small_disk) in text and "OBLIQ_CACHE" in text
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    text = refused("bits=3", folder=small_disk / "run")
    assert str(small_disk) in text and "hydra.run.dir" in text


def test_a_message_goes_with_a_file_of_details(obliq, tmp_path):
    found = obliq("bits=99", folder=tmp_path / "out")
    assert f"details: {tmp_path / 'out' / 'error.log'}" in found.text
    assert "Traceback" in (tmp_path / "out" / "error.log").read_text()


def test_a_network_of_another_task_is_refused_before_data_are_read(refused, tmp_path):
    (tmp_path / "tiny.yaml").write_text(
        "nc: 2\nbackbone:\n  - [-1, 1, Conv, [8, 3, 2]]\nhead:\n  - [[0], 1, Detect, [nc]]\n"
    )
    detector = ["model=yolo", f"model.name={tmp_path / 'tiny.yaml'}", "model.size=64"]
    for data in ("imagenet", "cifar10"):
        text = refused(*detector, f"data={data}", f"data.root={tmp_path / 'nowhere'}")
        assert "model tiny is no classifier: it gives a list" in text


def test_an_option_may_stand_behind_the_settings(obliq):
    found = obliq("method=rtn,gptq", "bits=3", "-m", *QUICK)
    assert found.status == 0, found.text
    jobs = [json.loads(path.read_text()) for path in found.folder.glob("*/results.json")]
    assert {job["method"] for job in jobs} == {"rtn", "gptq"}
    assert found.text.count("No model= and data= are given: this is the embedded example") == 1


def test_bare_it_says_what_it_is_going_to_do(monkeypatch, capfd, shared_store, tmp_path):
    from pipelines import run

    def stop(*args, **kwargs):
        raise ValueError("it would begin here")

    monkeypatch.setattr(run, "chain", stop)
    monkeypatch.setattr(sys, "argv", ["obliq"])
    monkeypatch.setenv("OBLIQ_CACHE", str(shared_store))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run.main()
    text = " ".join("".join(capfd.readouterr()).split())
    assert text.index("embedded example") < text.index("it would begin here")
    for said in (
        "4 bits by row_parallel",
        "about a minute",
        "outputs/runs/",
        "model=timm",
        "--help",
    ):
        assert said in text


def test_values_with_brackets_and_spaces_reach_the_run(obliq, tmp_path):
    found = obliq("method=rtn", "tags=[why (2),b c]", *QUICK, folder=tmp_path / "a (b) c")
    assert found.status == 0, found.text
    assert found.results["settings"]["tags"] == ["why (2)", "b c"]


def test_bits_of_single_layers_in_a_run_a_sweep_and_its_reproduction(obliq, tmp_path):
    words = ("method=rtn", "activations.overrides.last.0=5", "act_bits=6", *QUICK)
    found = obliq("-m", "precision.overrides.stem.0=2,3", "precision.overrides.down.0=8", *words)
    assert found.status == 0, found.text
    assert "precision.overrides.stem.0=2" in found.text and "++" not in found.text
    for job, bits in (("0", 2), ("1", 3)):
        record = json.loads((found.folder / job / "results.json").read_text())
        layers = {layer["name"]: layer["bits"] for layer in record["layers"]}
        assert layers == {**dict.fromkeys(layers, 4), "stem.0": bits, "down.0": 8}
        assert record["settings"]["precision"]["overrides"] == {"stem.0": bits, "down.0": 8}
        assert record["settings"]["activations"]["overrides"] == {"last.0": 5}
    out = tmp_path / "again"
    again = obliq("reproduce", str(found.folder / "1"), "--out", str(out), "--store", "--yes")
    assert again.status == 0 and "REPRODUCED" in again.text, again.text


def test_a_sweep_of_a_file_may_name_single_layers(obliq, tmp_path):
    (tmp_path / "mine" / "sweep").mkdir(parents=True)
    (tmp_path / "mine" / "sweep" / "stem.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
        "      experiment: digits\n      precision.overrides.stem.0: 2,3\n"
    )
    words = ("--config-dir", str(tmp_path / "mine"), "sweep=stem", "method=rtn", *QUICK)
    found = obliq(*words, f"hydra.sweep.dir={tmp_path / 'out'}")
    assert found.status == 0, found.text
    jobs = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/results.json")]
    found = {job["settings"]["precision"]["overrides"]["stem.0"] for job in jobs}
    assert found == {2, 3}


def test_a_typo_is_answered_without_loading_torch():
    code = (
        "import sys; sys.argv = ['obliq', 'bit=3']\n"
        "from pipelines import run\n"
        "try:\n    run.main()\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False" and done.returncode == 2
    assert done.stderr.startswith("✗ unknown setting 'bit': did you mean bits")
