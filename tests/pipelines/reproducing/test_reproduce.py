"""`obliq reproduce`: a result made again from its own record, on the digits."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pipelines import run
from pipelines.reproducing import circumstances, consent, source
from pipelines.reproducing.command import report
from pipelines.reproducing.figures import Figure, Tolerance, compare, figures, other_rows
from pipelines.reproducing.record import Record

EXAMPLE = json.loads((Path(__file__).parents[1] / "example_results.json").read_text())
SHORT = (
    "experiment=digits",
    "machine=cpu",
    "calibrate.images=96",
    "baseline.budget=0",
    "report.heatmaps=0",
)
TOLERANCE = Tolerance(relative=0.05, points=0.5)


@pytest.fixture(autouse=True)
def _code(monkeypatch):
    """The code is a clean commit, whatever is being worked on."""
    clean = {"commit": "a" * 40, "dirty": False, "diff": None, "untracked": []}
    monkeypatch.setattr(source, "record", lambda folder: clean)


@pytest.fixture
def reproduce(monkeypatch, capfd, shared_store, tmp_path):
    """reproduce(FILE, "--store", ...) -> (exit status, everything printed, new output folder)."""
    count = iter(range(100))

    def command(file, *words, store=shared_store, yes=True):
        out = tmp_path / f"again{next(count)}"
        monkeypatch.setenv("OBLIQ_CACHE", str(store))
        words = ["obliq", "reproduce", str(file), "--out", str(out), *words]
        words += ["--yes"] if yes else []
        monkeypatch.setattr(sys, "argv", words)
        capfd.readouterr()
        status = 0
        try:
            run.main()
        except SystemExit as stop:
            status = stop.code
        return status, "".join(capfd.readouterr()), out

    return command


@pytest.fixture(scope="module")
def kept():
    """The text of the results.json that the tests of this file share."""
    return {}


@pytest.fixture
def made(obliq, kept, tmp_path):
    """results.json of a run at 3 bits, alone in its folder, so that only the file can tell."""
    if not kept:
        found = obliq(*SHORT, "bits=3", "method=gptq")
        assert found.status == 0, found.text
        kept["text"] = (found.folder / "results.json").read_text()
    file = tmp_path / "elsewhere" / "results.json"
    file.parent.mkdir()
    file.write_text(kept["text"])
    return file


def altered(file, change):
    """Another results.json, changed."""
    results = json.loads(file.read_text())
    change(results)
    other = file.with_name("altered.json")
    other.write_text(json.dumps(results))
    return other


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rtn", "gptq", "obq", "row_parallel"])
def test_every_layer_wise_method_gives_the_same_bits_in_a_new_store(obliq, reproduce, method):
    """Nothing is shared: the network is trained anew, too, and OBQ runs all rows."""
    words = [*SHORT, "baseline.budget=1000000"]  # all rows, however busy the machine is
    first = obliq(*words, "model.train.epochs=2", "bits=2", "act_bits=8", f"method={method}")
    assert first.status == 0, first.text
    status, text, out = reproduce(first.folder)
    assert status == 0, text
    assert "REPRODUCED" in text and " NO " not in text and "changed: " not in text
    again = json.loads((out / "results.json").read_text())
    assert not any(again["cached"].values()) and not (out / "store").exists()
    for name in ("float", "quantized", "fidelity", "drop", "size_mb", "fingerprints"):
        assert again[name] == first.results[name], name
    for name in ("loss", "loss_rtn", "loss_baseline", "sensitivity", "predicted_loss"):
        then, now = ([x[name] for x in y["layers"]] for y in (first.results, again))
        assert then == now, name
    codes = [(folder / "model.safetensors").read_bytes() for folder in (first.folder, out)]
    assert codes[0] == codes[1]


def test_a_result_is_reproduced_from_its_file_alone(reproduce, made):
    status, text, out = reproduce(made, "--store")
    assert status == 0, text
    (line,) = [x for x in text.splitlines() if x.split()[:1] == ["quantized.top1"]]
    value = json.loads(made.read_text())["quantized"]["top1"]
    assert line.split() == ["quantized.top1", f"{value:.9g}", f"{value:.9g}", "0", "yes"]
    total = len(list(figures(json.loads(made.read_text()))))
    assert f"{total} of {total} figures are equal, bit for bit." in text and total > 100
    assert (out / "results.json").exists() and not (out / "wandb").exists()


def test_one_job_of_a_sweep_file_is_reproduced_alone(reproduce, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the file's folder of a sweep is relative
    job = altered(made, lambda x: x["command"].append("sweep=cifar10_resnet20"))
    status, text, out = reproduce(job, "--store")
    assert status == 0, text
    assert "REPRODUCED" in text and (out / "results.json").exists()
    assert not (tmp_path / "outputs").exists(), "the sweep's own files stay as they are"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("quantized.top1", lambda x: x["quantized"].update(top1=x["quantized"]["top1"] + 0.2)),
        ("layers.last.0.loss", lambda x: x["layers"][4].update(loss=1e-3)),
        ("fidelity.kl", lambda x: x["fidelity"].update(kl=x["fidelity"]["kl"] * (1 + 1e-15))),
        ("correction.kept", lambda x: x["correction"].update(kept=not x["correction"]["kept"])),
        ("fingerprints.evaluation", lambda x: x["fingerprints"].update(evaluation="0" * 64)),
        ("uncorrected.top7", lambda x: x["uncorrected"].update(top7=1.0)),
    ],
)
def test_a_record_with_one_figure_altered_is_different(reproduce, made, name, change):
    status, text, _ = reproduce(altered(made, change), "--store")
    assert status == 4
    (line,) = [x for x in text.splitlines() if x.split()[:1] == [name]]
    assert line.split()[-1] == "NO"
    assert f"NOT REPRODUCED: 1 differ: {name}" in text


def test_other_circumstances_are_named_and_allow_a_tolerance(reproduce, made):
    def elsewhere(results):
        results["versions"]["torch"] = "2.0.0"
        results["machine"]["cpu"] = "Another"
        results["source"]["commit"] = "f" * 40
        results["fidelity"]["kl"] *= 1.02
        results["quantized"]["top1"] += 0.4

    status, text, _ = reproduce(altered(made, elsewhere), "--store")
    assert status == 0, text
    for reason in ("torch 2.0.0, now", "cpu Another, now", "commit ffffffffff, now aaaaaaaaaa"):
        assert f"changed: {reason}" in text
    assert f"within the tolerance ({TOLERANCE})" in text and "0.5 points" in text

    status, text, _ = reproduce(altered(made, elsewhere), "--store", "--tolerance", "0.01")
    assert status == 4 and "NOT REPRODUCED: 1 differ by more than the tolerance (1 %" in text


BAD = {
    "no results": (lambda x: x.clear(), "lacks model, method, float, quantized"),
    "no command": (lambda x: x.pop("command"), "lacks its command line"),
    "a text": (lambda x: x.update(command="bits=3"), "lacks its command line"),
    "no settings": (lambda x: x.pop("settings"), "`obliq experiment=digits machine=cpu"),
    "code": (lambda x: x["command"].append("+model._target_=os.system"), "names code to call"),
    "an option": (lambda x: x["command"].insert(0, "--config-dir=/x"), "names code to call"),
    "no method": (lambda x: x["command"].append("method=gone"), "unknown method 'gone'"),
    "no setting": (lambda x: x["command"].append("blocks=7"), "unknown setting 'blocks'"),
    "deep": (lambda x: x["command"].append("grid.serch=mse"), "did you mean search"),
    "moved": (lambda x: x["settings"].update(bits=4), "bits: 4, now 3"),
}


@pytest.mark.parametrize(("change", "expected"), BAD.values(), ids=BAD.keys())
def test_a_record_that_cannot_be_run_again_says_why(reproduce, made, change, expected):
    status, text, out = reproduce(altered(made, change), "--store")
    text = " ".join(text.split())
    assert status == 2 and expected in text and "Traceback" not in text, text
    assert not (out / "results.json").exists()


def test_a_file_that_is_not_there_or_no_json_is_told(reproduce, tmp_path):
    status, text, _ = reproduce(tmp_path / "nowhere.json")
    assert status == 2 and "nowhere.json No such file" in text
    (tmp_path / "cut.json").write_text('{"model": ')
    status, text, _ = reproduce(tmp_path / "cut.json")
    assert status == 2 and "cut.json" in text and "Traceback" not in text


def test_data_that_is_gone_is_told_and_may_lie_elsewhere(reproduce, made, tmp_path):
    def gone(results):
        results["command"] += ["model=cifar10_resnet20", f"model.checkpoint={tmp_path}/gone.pt"]
        results["settings"]["model"] = {}

    status, text, _ = reproduce(altered(made, gone), "--store")
    assert status == 1 and "gone.pt" in text and "model.checkpoint=" in text


def test_an_output_folder_with_results_is_not_overwritten(reproduce, made, capfd):
    status, text, _ = reproduce(made, "--store", "--out", str(made.parent))
    assert status == 2 and "would overwrite" in text
    assert "NOT" not in made.read_text()


def test_words_behind_the_file_count_but_may_not_change_what_is_computed(reproduce, made):
    status, text, _ = reproduce(made, "bits=4", "--store")
    assert status == 2 and "bits: 3, now 4" in text
    status, text, _ = reproduce(made, "tracking=none", "report.heatmaps=2", "--store")
    assert status == 0, text


@pytest.fixture
def _threads():
    """As many threads afterwards as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
def test_it_runs_with_as_many_threads_as_then_unless_others_are_given(reproduce, made):
    count = torch.get_num_threads()
    other = altered(made, lambda results: results["machine"].update(threads=count + 1))
    for words, expected in (((), count + 1), ((f"machine.threads={count}",), count)):
        status, text, out = reproduce(other, "--store", *words)
        assert status == 0, text
        assert json.loads((out / "results.json").read_text())["machine"]["threads"] == expected
        assert ("threads" in text) == bool(words)


def test_own_configuration_files_are_used_again(obliq, reproduce, tmp_path):
    (tmp_path / "mine" / "method").mkdir(parents=True)
    text = "_target_: quant.methods.rtn.quantize\n_partial_: true\n"
    (tmp_path / "mine" / "method" / "own.yaml").write_text(text)
    first = obliq("--config-dir", str(tmp_path / "mine"), *SHORT, "method=own")
    assert first.results["config_dir"] == str(tmp_path / "mine")
    status, text, _ = reproduce(first.folder, "--store")
    assert status == 0, text
    (tmp_path / "mine").rename(tmp_path / "gone")
    status, text, _ = reproduce(first.folder, "--store")
    assert status == 2 and str(tmp_path / "mine") in " ".join(text.split())


def test_words_of_tracking_and_of_hydra_are_not_run_again(tmp_path):
    words = ["bits=3", "tracking=wandb", "+tracking.x=1", "hydra/launcher=a", "hydra.run.dir=/"]
    made = EXAMPLE | {"command": words, "settings": {"bits": 3}, "config_dir": None}
    (tmp_path / "results.json").write_text(json.dumps(made))
    assert Record.read(tmp_path).overrides == ("bits=3",)


def test_settings_of_another_version_and_paths_are_no_changes(tmp_path):
    then = {"bits": 3, "data": {"root": "/a", "size": 2}, "old": [1], "machine": {"devices": 1}}
    now = {"bits": 3, "data": {"root": "/b", "size": 4}, "new": {"x": 1}, "machine": {"devices": 2}}
    record = Record({}, (), None, then)
    assert record.changed(now) == ["data.size: 2, now 4"]
    assert record.versioned(now) == ["old: [1], now (not there)", "new.x: (not there), now 1"]


def test_times_and_places_are_no_figures():
    timed = {
        "rounding": {"seconds": 3.0, "flipped": 0.1},
        "precision": {"measuring": {"images": 2}, "value": 99.0, "seconds_forward": 1.0},
        "layers": [{"name": "conv1", "loss": 1.0, "baseline_seconds": 2.0}],
    }
    names = dict(figures(EXAMPLE | timed))
    assert {"rounding.flipped", "precision.value", "layers.conv1.loss"} <= set(names)
    for word in ("seconds", "measuring", "speedup", "machine", "versions", "cached", "command"):
        assert not [name for name in names if word in name], word


def test_layers_whose_obq_had_time_for_other_rows_are_not_compared():
    now = copy.deepcopy(EXAMPLE)
    now["layers"][0] |= {"baseline_rows": 8, "loss_baseline": 9.9, "loss_on_baseline_rows": 9.9}
    now |= {"loss_ratio_vs_baseline": 5.0, "baseline": now["baseline"] | {"rows_run": 506}}
    assert other_rows(EXAMPLE, now) == ["conv1"]
    assert all(figure.equal for figure in compare(EXAMPLE, now))
    now["layers"][1]["loss_baseline"] = 9.9
    (wrong,) = [figure for figure in compare(EXAMPLE, now) if not figure.equal]
    assert wrong.name == "layers.layer1.0.conv1.loss_baseline"


@pytest.mark.parametrize(
    ("name", "then", "now", "near"),
    [
        ("quantized.top1", 80.0, 80.5, True),
        ("quantized.top1", 80.0, 80.6, False),
        ("fidelity.agreement", 95.0, 95.4, True),
        ("fidelity.kl", 0.100, 0.104, True),
        ("fidelity.kl", 0.100, 0.106, False),
        ("fidelity.kl", 1e-7, 5e-7, True),
        ("n_images", 500, 501, False),
        ("layers.a.bits", 4, 3, False),
        ("correction.kept", True, False, False),
        ("correction.kept", 1, True, False),
        ("fidelity.sqnr_db", None, 30.0, False),
        ("fingerprints.weights", "a", "b", True),
        ("fingerprints.calibration", "a", "b", False),
    ],
)
def test_the_tolerance_is_for_losses_and_percentages_only(name, then, now, near):
    assert Figure(name, then, now).within(TOLERANCE) is near
    assert not Figure(name, then, now).equal


def test_reasons_are_found_in_versions_machine_and_code():
    changed = {"commit": "a" * 40, "diff_sha256": "1", "untracked": ["quant/mine.py"]}
    then = EXAMPLE | {"source": changed}
    assert circumstances.differing(EXAMPLE, EXAMPLE) == ["the recorded code version is unknown"]
    assert circumstances.differing(then, then) == ["untracked code: quant/mine.py"]
    clean = {"commit": "a" * 40, "untracked": []}
    (reason,) = circumstances.differing(
        EXAMPLE | {"source": changed | {"untracked": []}}, EXAMPLE | {"source": clean}
    )
    assert reason == "uncommitted changes then"
    trained = EXAMPLE | {"source": clean, "rounding": {"flipped": 0.1}}
    assert "trained" in circumstances.differing(trained, trained)[0]
    machine = {"gpu": "H200", "driver": "1", "accelerator": "auto"}
    gpu = EXAMPLE | {"source": clean, "machine": machine}
    assert circumstances.differing(gpu, gpu) == ["a GPU may sum in a different order in every run"]
    other = gpu | {"machine": machine | {"driver": "2"}}
    assert "driver 1, now 2" in circumstances.differing(gpu, other)
    unused = gpu | {"machine": machine | {"accelerator": "cpu"}}
    assert circumstances.differing(unused, unused) == []


def test_without_a_reason_the_last_bit_counts():
    now = copy.deepcopy(EXAMPLE)
    now["layers"][0]["loss"] *= 1 + 2**-52
    assert report(EXAMPLE, now, [], TOLERANCE, Console(quiet=True)) == 4
    assert report(EXAMPLE, now, ["torch 1, now 2"], TOLERANCE, Console(quiet=True)) == 0


def test_help_names_the_other_commands(obliq, capfd):
    found = obliq("--help-all")
    for word in ("obliq store", "obliq reproduce FILE", "obliq-report", "experiment:", "bits: 4"):
        assert word in found.text


SMUGGLED = (
    "+model.build={_target_:os.system}",
    "+x=${oc.create:{_tar${e}get_:os.system}}",
    "+data.note=${oc.env:HOME}",
    r"+model.build={\_target\_:os.system}",
    "+model.build={'_tar''get_':os.system}",
    "+model.build=${ oc.decode : x }",
)


@pytest.mark.parametrize("word", SMUGGLED)
def test_no_word_of_a_record_can_hide_code(word, tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(EXAMPLE | {"command": [word], "settings": {}, "config_dir": None}))
    with pytest.raises(ValueError, match="names code to call"):
        Record.read(file)


def test_plain_interpolations_are_no_code(tmp_path):
    file = tmp_path / "results.json"
    words = ["bits=4", "act_bits=${bits}"]
    file.write_text(json.dumps(EXAMPLE | {"command": words, "settings": {}, "config_dir": None}))
    assert Record.read(file).overrides == tuple(words)


def test_what_will_run_is_told_and_nothing_runs_unless_someone_agrees(
    reproduce, tmp_path, monkeypatch
):
    settings = {"method": {"_target_": "someones.module.quantize"}, "bits": 4}
    file = tmp_path / "results.json"
    file.write_text(
        json.dumps(EXAMPLE | {"command": ["bits=4"], "settings": settings, "config_dir": None})
    )
    monkeypatch.setattr(run, "_rerun", lambda *args: pytest.fail("nobody has agreed"))
    status, text, out = reproduce(file, "data.root=here", yes=False)
    assert status == 2 and not out.exists()
    assert "will run: obliq bits=4 data.root=here" in text and "give --yes" in text
    assert "not part of obliq: someones.module.quantize" in text


@pytest.mark.parametrize(
    ("answer", "expected"), [("y", True), ("yes ", True), ("", False), ("n", False)]
)
def test_a_person_at_a_terminal_is_asked(answer, expected, monkeypatch):
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    assert consent.agreed(False, lambda question: answer) is expected
    assert consent.agreed(True, lambda question: pytest.fail("not asked"))


def test_code_that_the_record_does_not_name_is_found():
    recorded = {"method": {"_target_": "mine.quantize"}, "a": [{"_target_": "quant.grid.fit"}]}
    assert consent.unannounced(recorded, recorded) == []
    now = {**recorded, "more": {"deep": [{"_target_": "os.system"}]}}
    assert consent.unannounced(recorded, now) == ["os.system"]
    assert consent.foreign(now) == ["mine.quantize", "os.system"]
