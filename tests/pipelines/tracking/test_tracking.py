"""Runs are read back with wandb's own reader, `wandb leet inspect`."""

import json
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from pipelines.reporting import canvas
from pipelines.tracking import NullTracker, WandbTracker, flatten, run_id, wandb_tracker
from tests.waiting import PATIENCE

RESULTS = json.loads((Path(__file__).parents[1] / "example_results.json").read_text())
ROOT = Path(__file__).parents[3]
SETTINGS = {
    "project": "obliq-tests",
    "entity": None,
    "mode": "offline",
    "group": None,
    "job_type": None,
    "tags": ["every"],
    "notes": "what for",
    "connect_seconds": 5,
    "upload_seconds": 5,
}
START = {
    "config": {"bits": 4, "method": {"block": 64}},
    "name": "synthetic",
    "group": "sweep-7",
    "tags": ["w4"],
    "job_type": "ptq",
    "origin": {"source": {"commit": "0123abc", "dirty": False}},
}
CALIBRATION = {"store": "Calibrate/0123", "images": ["a", "b", "c"], "layers": ["conv1"]}


def read(folder):
    """All records of the only offline run below a folder."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return records_of(path)


def records_of(path):
    """All records of a run file: [(type, value)]."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def of_type(records, kind):
    return [record[kind] for record in records if record["type"] == kind]


def last_values(records, kind, items):
    """The last value of each key in the records of one kind; "." parts what is nested."""
    return {
        key: value
        for record in of_type(records, kind)
        for key, value in record.get(items, {}).items()
    }


def content_of(artifact):
    """The JSON files of an artifact, by name."""
    return {
        entry["path"]: json.loads(Path(entry["local_path"]).read_text())
        for entry in artifact["manifest"]["contents"]
    }


def said(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "pipelines.tracking"]


def exit_code(records):
    (record,) = of_type(records, "exit")
    return record.get("exit_code", 0)


def test_everything_of_an_offline_run_is_in_its_file(tmp_path, caplog, capfd):
    folder = tmp_path / "out"
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"12345")
    Image.new("RGB", (8, 6)).save(tmp_path / "loss.png")
    tracker = WandbTracker(**SETTINGS)
    tracker.start(folder=folder, **START)
    tracker.stage("calibrate", 12.5, cached=False)
    tracker.stage("quantize", 2.25, cached=True)
    tracker.layers([*RESULTS["layers"], {"name": "only a name"}])
    figure = canvas.blank(1, width=2)
    figure.add_subplot().plot([1, 2])
    tracker.plots({"loss": tmp_path / "loss.png", "drawn": figure})
    tracker.calibration("calibration-net", CALIBRATION)
    tracker.weights(weights, "net@4 bit", {"bits": 4})
    (tmp_path / "results.json").write_text("{}")
    tracker.evaluation("evaluation-net", [tmp_path / "results.json"], {"top1": 80.5})
    (tmp_path / "results.json").write_text("of another run")
    tracker.summary(RESULTS)
    tracker.finish()

    assert Path(tracker.where).parent == folder / "wandb"
    records = read(folder)
    (run,) = of_type(records, "run")
    config = run["config"]["update"]
    assert {key: config[key] for key in START["config"]} == START["config"]
    assert run["project"] == "obliq-tests"
    assert config["source"] == START["origin"]["source"]
    assert run["display_name"] == "synthetic"
    assert run["notes"] == "what for"
    assert run["run_group"] == "sweep-7"
    assert run["job_type"] == "ptq"
    assert run["tags"] == ["every", "w4"]
    assert exit_code(records) == 0

    summary = last_values(records, "summary", "update")
    expected = flatten(RESULTS)
    assert {key: summary[key] for key in expected} == expected
    assert summary["quantized/top1"] == RESULTS["quantized"]["top1"]
    assert summary["drop/ci95_hi"] == RESULTS["drop"]["ci95"][1]
    assert summary["baseline/estimated"] is True
    assert summary["speedup"] == RESULTS["speedup"]

    stages = of_type(records, "history")[:2]
    logged = {key: value for stage in stages for key, value in stage["item"].items()}
    assert logged["seconds/calibrate"] == 12.5
    assert logged["cached/calibrate"] is False
    assert logged["seconds/quantize"] == 2.25
    assert logged["cached/quantize"] is True

    (table,) = folder.rglob("layers*.table.json")
    rows = json.loads(table.read_text())
    assert len(rows["data"]) == len(RESULTS["layers"]) + 1
    first = dict(zip(rows["columns"], rows["data"][0], strict=True))
    assert first["name"] == RESULTS["layers"][0]["name"]
    assert first["loss"] == RESULTS["layers"][0]["loss"]
    assert first["shape"] == "16x3x3x3"
    assert first["predicted_loss_3"] == RESULTS["layers"][0]["predicted_loss"]["3"]
    assert summary["layers.nrows"] == len(rows["data"])
    assert summary["plots/loss.width"] == 8
    assert list(folder.rglob("loss*.png"))
    (file,) = folder.rglob("drawn*.png")
    with Image.open(file) as image:
        assert image.size == (2 * canvas.DPI, canvas.DPI)
        assert len(image.getcolors(1 << 16)) > 2

    artifacts = {a["type"]: a for a in of_type(records, "artifact")}
    artifact = artifacts["model"]
    assert artifact["name"] == "net-4-bit"
    assert json.loads(artifact["metadata"]) == {"bits": 4}
    (content,) = artifact["manifest"]["contents"]
    assert content["path"] == "model.safetensors"
    assert content["local_path"] == str(weights / "model.safetensors")  # not a copy of it

    # the run has used the calibration, has made the weights and used them, has made the evaluation
    ends = {
        kind: (a.get("user_created", False), a.get("use_after_commit", False))
        for kind, a in artifacts.items()
    }
    assert ends["calibration"] == (True, True)
    assert ends["model"] == (False, True)
    assert ends["evaluation"] == (False, False)
    assert json.loads(artifacts["calibration"]["metadata"])["images"] == 3
    assert content_of(artifacts["calibration"]) == {"calibration.json": CALIBRATION}
    assert content_of(artifacts["evaluation"]) == {"results.json": {}}, "a copy, not what follows"

    assert said(caplog) == []
    assert capfd.readouterr() == ("", "")


def test_a_run_that_died_is_marked_failed_and_says_of_what(tmp_path):
    tracker = WandbTracker(**SETTINGS)
    tracker.start(folder=tmp_path, **START)
    tracker.fail(ValueError("H is not finite in layer conv1"))
    records = read(tmp_path)
    assert exit_code(records) == 1
    assert (
        last_values(records, "summary", "update")["error"]
        == "ValueError: H is not finite in layer conv1"
    )


def test_the_same_command_in_the_same_folder_goes_on_in_the_same_run(tmp_path):
    def run(config, project="obliq-tests"):
        tracker = WandbTracker(**SETTINGS | {"project": project})
        tracker.start(folder=tmp_path, **START | {"config": config, "origin": {}})
        tracker.finish()
        (path,) = Path(tracker.where).glob("run-*.wandb")
        (record,) = of_type(records_of(path), "run")
        assert record["resume"] is True, "wandb sync is to append, not to replace"
        return record["run_id"]

    first = run({"bits": 4})
    assert run({"bits": 4}) == first
    assert json.loads((tmp_path / "wandb" / "run_id.json").read_text())["id"] == first
    assert run({"bits": 3}) != first, "another command is another run"
    assert run({"bits": 4}, "other") != first

    listed = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", str(tmp_path / "wandb")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Would sync 4 run(s)" in listed.stdout + listed.stderr


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "../../x"}', '{"id": 7}'])
def test_a_damaged_run_id_is_replaced(tmp_path, text):
    file = tmp_path / "wandb" / "run_id.json"
    file.parent.mkdir()
    file.write_text(text)
    found, known = run_id.of(tmp_path, {"bits": 4})
    assert len(found) == 8 and found.isalnum() and not known
    assert run_id.of(tmp_path, {"bits": 4}) == (found, True)


def test_what_a_person_sets_overrides_what_the_run_says(tmp_path):
    tracker = WandbTracker(**SETTINGS | {"group": "mine", "job_type": "search"})
    tracker.start(folder=tmp_path, **START)
    tracker.finish()
    (run,) = of_type(read(tmp_path), "run")
    assert (run["run_group"], run["job_type"]) == ("mine", "search")


def test_project_and_entity_come_from_the_environment_or_the_command_line(monkeypatch):
    omegaconf = pytest.importorskip("omegaconf")
    for path in ("offline", "wandb"):
        config = omegaconf.OmegaConf.load(ROOT / "conf" / "tracking" / f"{path}.yaml")
        assert (config.project, config.entity) == ("obliq", None)
        with monkeypatch.context() as user:
            user.setenv("WANDB_PROJECT", "theirs")
            user.setenv("WANDB_ENTITY", "team")
            assert (config.project, config.entity) == ("theirs", "team")


def test_a_run_that_died_and_then_succeeds_has_no_error_any_more(tmp_path):
    tracker = WandbTracker(**SETTINGS)
    tracker.start(folder=tmp_path, **START)
    tracker.fail(ValueError("killed"))
    tracker.start(folder=tmp_path, **START)
    tracker.finish()
    died, went_on = (records_of(p) for p in sorted(tmp_path.glob("wandb/offline-*/run-*.wandb")))
    assert last_values(died, "summary", "update")["error"] == "ValueError: killed"
    assert last_values(went_on, "summary", "update")["error"] is None
    assert (exit_code(died), exit_code(went_on)) == (1, 0)


def test_two_runs_in_one_process_stay_two_runs(tmp_path):
    for name in ("a", "b"):
        tracker = WandbTracker(**SETTINGS | {"group": "mine"})
        tracker.start(folder=tmp_path / name, **START | {"name": name})
        tracker.summary({"speedup": 1.5 if name == "a" else 2.5})
        tracker.finish()
    for name, value in (("a", 1.5), ("b", 2.5)):
        records = read(tmp_path / name)
        assert of_type(records, "run")[0]["display_name"] == name
        assert of_type(records, "run")[0]["run_group"] == "mine"
        assert last_values(records, "summary", "update")["speedup"] == value


def test_a_process_that_vanishes_after_the_summary_leaves_its_values(tmp_path):
    script = f"""
        import os
        from pathlib import Path
        from pipelines.tracking import WandbTracker
        tracker = WandbTracker(**{SETTINGS!r})
        tracker.start(folder=Path({str(tmp_path)!r}), **{START!r})
        tracker.stage("calibrate", 12.5, cached=False)
        tracker.summary({RESULTS!r})
        os._exit(9)
    """
    # ends with wandb's own process, which has the pipe too and writes what it was given
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=PATIENCE, check=False)
    assert done.returncode == 9
    expected = {key: value for key, value in flatten(RESULTS).items() if not isinstance(value, str)}
    records = read(tmp_path)
    history = last_values(records, "history", "item")
    summary = last_values(records, "summary", "update")
    assert {key: history[key] for key in expected} == expected
    assert {key: summary[key] for key in expected} == expected
    assert history["cached/calibrate"] is True  # the results' own value came last
    assert [code for code in of_type(records, "exit") if code.get("exit_code", 0) == 0] == []


@pytest.mark.parametrize("key", [None, "0123456789" * 4], ids=["no key", "no network"])
def test_online_without_key_or_network_loses_nothing_and_says_how_to_sync(
    tmp_path, monkeypatch, caplog, capfd, key
):
    # A process of its own: wandb keeps the server it once talked to.
    script = f"""
        import logging, sys
        from pathlib import Path
        from pipelines.tracking import WandbTracker
        tracker = WandbTracker(**{SETTINGS | {"mode": "online", "connect_seconds": 1}!r})
        tracker.start(folder=Path({str(tmp_path)!r}), **{START!r})
        tracker.summary({RESULTS!r})
        tracker.finish()
        print(tracker.where)
    """
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    command = [sys.executable, "-W", "error::UserWarning", "-c", textwrap.dedent(script)]
    with socket.socket() as deaf:  # a port that is taken, and that nobody listens to
        deaf.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
        )
    (run,) = tmp_path.glob("wandb/*run-*")
    assert done.stdout == f"{run}\n"
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"wandb sync {run}")
    assert ("no API key" in line) == (key is None)
    assert (key or "0123456789") not in line
    records = read(tmp_path)
    expected = flatten(RESULTS)
    summary = last_values(records, "summary", "update")
    assert {name: summary[name] for name in expected} == expected
    assert exit_code(records) == 0


def test_a_server_has_as_long_as_is_set_and_wandbs_own_process_as_long_as_it_takes(
    tmp_path, monkeypatch
):
    """Without a server nothing but a busy machine is waited for: no setting may end that."""
    import wandb

    waits = []

    def init(mode, settings, **others):
        waits.append((mode, settings))
        raise ConnectionError("no answer")

    monkeypatch.setattr(wandb, "login", lambda timeout, **others: waits.append(timeout) or True)
    monkeypatch.setattr(wandb, "init", init)
    tracker = WandbTracker(**SETTINGS | {"mode": "online", "upload_seconds": 7})
    tracker.start(folder=tmp_path, **START)
    login, (online, server), (offline, local) = waits
    assert (login, online, offline) == (5, "online", "offline")
    assert server.init_timeout == server.login_timeout == 5
    assert server.finish_timeout == 7 and server.finish_timeout_raises
    assert local.init_timeout == wandb_tracker.LOCAL_SECONDS
    assert local.finish_timeout == 0, "no limit"


def test_a_whole_run_sends_the_figures_of_its_report(obliq):
    outcome = obliq("tracking=offline")
    assert outcome.status == 0, outcome.text
    sent = last_values(read(outcome.folder), "summary", "update")
    drawn = {file.stem for file in (outcome.folder / "plots").iterdir()}
    assert drawn >= {"loss_per_layer", "sensitivity", "seconds_per_stage"}
    assert {f"plots/{name}.width" for name in drawn} <= set(sent)
    assert sent["plots/sensitivity.width"] == canvas.WIDTH * canvas.DPI


def test_a_failure_of_wandb_is_said_once_and_the_computation_goes_on(tmp_path, caplog):
    tracker = WandbTracker(**SETTINGS)
    tracker.start(folder=tmp_path, **START)
    tracker.plots({"absent": tmp_path / "absent.png"})
    tracker.weights(tmp_path / "absent", "w", {})
    (message,) = said(caplog)
    assert f"wandb sync {tracker.where}" in message
    tracker.summary(RESULTS)
    tracker.finish()
    assert last_values(read(tmp_path), "summary", "update")["speedup"] == RESULTS["speedup"]


def test_a_folder_that_cannot_be_written_is_said_once_and_nothing_is_raised(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    tracker = WandbTracker(**SETTINGS)
    tracker.start(folder=tmp_path / "file", **START)
    tracker.summary(RESULTS)
    tracker.finish()
    assert tracker.where == ""
    assert len(said(caplog)) == 1


def test_an_unknown_mode_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match="'offline' or 'online'"):
        WandbTracker(**SETTINGS | {"mode": "on"})


def test_no_tracking_never_imports_wandb(tmp_path):
    script = f"""
        import sys
        from pathlib import Path
        from pipelines.tracking import NullTracker
        tracker = NullTracker()
        tracker.start(folder=Path({str(tmp_path)!r}), **{START!r})
        tracker.stage("calibrate", 1.0, cached=False)
        tracker.layers([]); tracker.plots({{}}); tracker.weights(Path("w"), "w", {{}})
        tracker.calibration("c", {{}}); tracker.evaluation("e", [], {{}})
        tracker.summary({{}}); tracker.finish(); tracker.fail(ValueError())
        assert tracker.where == "" and "wandb" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, check=True)
    assert list(tmp_path.iterdir()) == []


def test_both_trackers_have_the_same_methods():
    def public(kind):
        return {name for name in dir(kind) if not name.startswith("_")}

    settings = set(SETTINGS)
    assert public(WandbTracker(**SETTINGS)) - settings == public(NullTracker())


def test_the_three_configs_build_the_two_trackers():
    hydra = pytest.importorskip("hydra.utils")
    omegaconf = pytest.importorskip("omegaconf")
    kinds = {}
    for path in sorted((ROOT / "conf" / "tracking").glob("*.yaml")):
        tracker = hydra.instantiate(omegaconf.OmegaConf.load(path), _convert_="all")
        kinds[path.stem] = (type(tracker), getattr(tracker, "mode", None))
    assert kinds == {
        "none": (NullTracker, None),
        "offline": (WandbTracker, "offline"),
        "wandb": (WandbTracker, "online"),
    }


def test_flatten_leaves_out_lists_and_what_is_missing():
    flat = flatten({"a": {"b": {"c": 1}}, "act_bits": None, "layers": [1, 2], "gpu": "none"})
    assert flat == {"a/b/c": 1, "gpu": "none"}


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_wandb_mode_disabled_records_nothing(mode, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = WandbTracker(**SETTINGS | {"mode": mode})
    tracker.start(folder=tmp_path, **START)
    tracker.stage("calibrate", 1.0, False)
    tracker.summary(RESULTS)
    tracker.finish()
    assert tracker.where == "" and list(tmp_path.iterdir()) == []
