"""Every input of every stage, changed in turn: it runs again, or its result cannot change."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from evaluation import content_index
from evaluation import digits as digits_data
from evaluation.content_index import ContentIndex
from evaluation.detection import DetectionData
from evaluation.imagenet import ImageNet
from evaluation.segmentation import SegmentationData
from pipelines.machine.machine import Machine
from pipelines.machine.screen import Screen
from pipelines.stages.calibrate import Calibrate
from pipelines.store import code, fingerprint, image_keys
from pipelines.store.artifacts import Keyed
from pipelines.store.store import Store
from tests.mutations import page, proven
from tests.mutations.__main__ import PAGE
from tests.mutations.changes import changed, changes
from tests.mutations.data_sets import data_sets, keyed
from tests.mutations.stages import classes, inputs, stages

ROOT = Path(__file__).parents[3]
STAGES = functools.cache(stages)
NAMES = [kind.__name__ for kind in classes()]


@pytest.fixture
def anew():
    """Read code and versions anew, now and afterwards."""
    fingerprint.forget()
    yield fingerprint.forget
    fingerprint.forget()


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_in_the_key(name):
    stage = STAGES()[name]
    given = inputs(stage).values()
    before, keys = fingerprint.key(stage, given), {}
    assert fingerprint.key(stage, given) == before
    for where, other in changes(stage):
        keys[where] = fingerprint.key(other, given)
    stale = [where for where, key in keys.items() if key == before]
    assert stale == [] and len(set(keys.values())) == len(keys)
    assert bool(keys) == bool(dataclasses.fields(stage))


@pytest.mark.parametrize("name", NAMES)
def test_every_input_is_in_the_key(name):
    stage = STAGES()[name]
    given = inputs(stage)
    before = fingerprint.key(stage, given.values())
    for changed_name in given:
        other = given | {changed_name: Keyed(None, "another")}
        assert fingerprint.key(stage, other.values()) != before, changed_name


@pytest.mark.parametrize("name", NAMES)
def test_every_module_that_is_reached_and_every_library_is_in_the_key(name, monkeypatch):
    stage = STAGES()[name]
    given = list(inputs(stage).values())
    modules = fingerprint.modules(stage, given)
    before, closure = fingerprint.key(stage, given), code.closure(modules)
    assert {type(stage).__module__, "python", "dist torch"} <= set(closure)
    for part in closure:
        other = {**closure, part: "edited"}
        monkeypatch.setattr(code, "closure", lambda names, other=other: other)
        fingerprint._source.cache_clear()
        assert fingerprint.key(stage, given) != before, part
    fingerprint._source.cache_clear()


def _another(other, identity, name):
    return "0.0 another" if name == other else identity(name)


def test_a_library_in_another_version_is_in_the_closure_in_another_version(monkeypatch, anew):
    before = code.closure(["evaluation.coco", "timm.models.resnet"])
    for name in [each.removeprefix("dist ") for each in before if each.startswith("dist ")]:
        code.forget()
        identity = functools.cache(functools.partial(_another, name, code._identity.__wrapped__))
        with monkeypatch.context() as patch:
            patch.setattr(code, "_identity", identity)
            after = code.closure(["evaluation.coco", "timm.models.resnet"])
        assert {part for part in before if before[part] != after[part]} == {f"dist {name}"}


@pytest.mark.parametrize("kind", data_sets(), ids=lambda kind: kind.__name__)
def test_every_setting_of_a_data_set_is_in_the_key_or_proven_to_move_nothing(kind):
    for name, found in keyed(kind).items():
        reasons = proven.DATA.get(name, (None, None))
        assert found == tuple(reason is None for reason in reasons), name


def test_what_is_said_to_move_nothing_has_a_test_that_shows_it():
    reasons = [r for pair in proven.DATA.values() for r in pair if r] + [*proven.MACHINE.values()]
    for reason in reasons:
        file, _, name = reason.test.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), reason.test


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text(encoding="utf-8") == page.render(), "run python -m tests.mutations"


# What is in no key


def folders(root, colour=(250, 250, 250)):
    for number, name in enumerate("abab"):
        path = root / "val" / name / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (*colour[:2], 20 * number)).save(path)
    return root


CONFIG = {
    "input_size": (3, 8, 8), "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3,
    "crop_pct": 1.0, "crop_mode": "center",
}  # fmt: skip


def image_net(root, **settings):
    given = {"calibration_root": None, "batch_size": 2, "workers": 0, "skip_bad": False}
    data = ImageNet(root=str(root), **{**given, "images": None, "classes": 2, **settings})
    data.prepare(CONFIG, 2, 0, 2)
    return data


def keys_of(data):
    return image_keys.calibration(data).key, image_keys.evaluation(data).key


def test_images_count_by_their_content_wherever_they_lie(tmp_path):
    before = keys_of(image_net(folders(tmp_path / "one")))
    assert keys_of(image_net(folders(tmp_path / "two"), skip_bad=True, workers=1)) == before
    other = keys_of(image_net(folders(tmp_path / "three", (0, 0, 0))))
    assert other[0] != before[0] and other[1] != before[1]
    fewer = keys_of(image_net(tmp_path / "one", images=1))
    assert fewer[0] == before[0] and fewer[1] != before[1]


def test_every_pixel_changed_in_place_with_the_same_size_and_times_is_seen(tmp_path, monkeypatch):
    index = tmp_path / "files.txt"
    monkeypatch.setattr(content_index, "index", ContentIndex(index))
    before = keys_of(image_net(folders(tmp_path / "one")))
    content_index.index.save()
    for path in (tmp_path / "one").rglob("*.bmp"):
        old = path.stat()
        content = bytearray(path.read_bytes())
        content[-1] ^= 255
        path.write_bytes(bytes(content))
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
        assert path.stat().st_size == old.st_size
    monkeypatch.setattr(content_index, "index", ContentIndex(index))
    after = keys_of(image_net(tmp_path / "one"))
    assert before[0] != after[0] and before[1] != after[1]


@pytest.mark.parametrize("kind", [DetectionData, SegmentationData])
def test_calibration_never_reads_settings_of_the_evaluation(kind):
    class Blind(kind):
        """Cannot tell what the settings are."""

        names = ("a", "b")
        palette = ((0, 0, 0),) * 2

        def pools(self):
            raise NotImplementedError

    def told(self):
        raise AssertionError("a calibration asks for it")

    for name in (*kind.evaluation_settings, "batch_size"):
        setattr(Blind, name, property(told, lambda self, value: None))
    data = object.__new__(Blind)
    detector = type("Detector", (), {"decode": lambda self, maps: maps[0]})()
    numbers = torch.rand(2, 6, 5, generator=torch.Generator().manual_seed(0))
    maps = [numbers] if kind is DetectionData else numbers[:, :, :, None]
    data.distance(detector, maps, maps)
    data.divergence(detector, maps, maps)
    with pytest.raises(AssertionError, match="a calibration asks for it"):
        _ = data.batch_size


@pytest.fixture
def calibrated(digits, tmp_path):
    """Calibrate the digits on a machine, in a new store."""

    number = itertools.count()

    def run(machine):
        network, data = digits
        stage = Calibrate(96, 96, 16, None, 0)
        store = Store(tmp_path / str(next(number)))
        found = store.run(stage, network, image_keys.calibration(data), machine)
        return {name: found.tensors[name] for name in found.tensors}

    return run


def test_threads_and_devices_move_results_by_rounding_only(calibrated):
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(calibrated(Machine("cpu", 1, "32-true", threads)))
    finally:
        torch.set_num_threads(before)
    for name, one in results[0].items():
        torch.testing.assert_close(results[1][name], one, rtol=1e-4, atol=1e-5)


def test_the_screen_moves_nothing(calibrated):
    shown, silent = (
        calibrated(Machine("cpu", 1, "32-true", None, screen))
        for screen in (Screen(), Screen.nowhere())
    )
    assert all(torch.equal(silent[name], tensor) for name, tensor in shown.items())


def test_libraries_of_the_screen_are_imported_by_what_shows_waits_or_measures_memory_alone():
    rooms = {"machine", "store", "reporting", "comparing", "reproducing", "sweeps", "cli", "run"}
    for path in (ROOT / "pipelines").rglob("*.py"):
        imported = {n.partition(".")[0] for n in code.parse(path.read_bytes(), "x", False).imports}
        room = path.relative_to(ROOT / "pipelines").with_suffix("").parts[0]
        assert not imported & code.SCREEN_ONLY or room in rooms, path


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Machine)])
def test_every_setting_of_the_machine_is_in_its_key_or_proven_to_move_nothing(field):
    machine = Machine("cpu", 1, "32-true", None)
    other = changed(machine, field, "16-mixed")
    assert (other.key == machine.key) == (field in proven.MACHINE)


# The cases that were measured, with whole runs


WORDS = ("bits=3", "calibrate.images=32", "baseline.budget=0", "report.heatmaps=0",
         "method=rtn", "batchnorm=none")  # fmt: skip


def digits_as_bmp(root, invert=False):
    _, evaluation = digits_data.split()
    for number, name in enumerate(evaluation.ids[:200]):
        image = evaluation.decode(evaluation.blob(name))
        if invert:
            image = image.point(lambda value: 255 - value)
        path = root / "val" / f"{evaluation.labels[number]:02d}" / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return root


def test_inverted_images_of_the_same_size_are_evaluated_again(obliq, own_store, tmp_path):
    root = digits_as_bmp(tmp_path / "images")
    words = [*WORDS, "model=digits", "data=imagenet", f"data.root={root}", "data.classes=10"]
    first = obliq(*words, store=own_store)
    assert first.status == 0, first.text
    again = obliq(*words, store=own_store)
    assert all(again.results["cached"].values())
    digits_as_bmp(root, invert=True)
    served = obliq(*words, store=own_store)
    shutil.rmtree(own_store / "Evaluate")
    shutil.rmtree(own_store / "Calibrate")
    truth = obliq(*words, store=own_store)
    assert served.results["float"] == truth.results["float"] != first.results["float"]
    assert served.results["fidelity"] == truth.results["fidelity"] != first.results["fidelity"]
    prints = [r.results["fingerprints"] for r in (first, again, served)]
    assert prints[0] == prints[1]
    for name in ("calibration", "evaluation"):
        assert prints[0][name] != prints[2][name]


def test_an_edit_of_the_code_that_decodes_or_calibrates_is_computed_again(monkeypatch, anew):
    """The file that an import names, edited: every stage that reaches it."""
    stage = STAGES()["Calibrate"]
    before = fingerprint.key(stage, inputs(stage).values())
    read = code._module.__wrapped__

    def edited(name, follow):
        found = read(name, follow)
        return dataclasses.replace(found, digest="edited") if name == "quant.hessian" else found

    monkeypatch.setattr(code, "_module", functools.cache(edited))
    anew()
    assert fingerprint.key(stage, inputs(stage).values()) != before
