"""No key is ever in a file, a log or on the screen. All keys here are made up."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pipelines.cli import secrets

KEY = "fa4e" * 10
NETRC = "c0ffee" * 7
SHORT = (
    "experiment=digits",
    "calibrate.images=96",
    "method=rtn",
    "baseline.budget=0",
    "report.heatmaps=0",
)


@pytest.fixture(autouse=True)
def keys(monkeypatch, tmp_path):
    """One key in the environment, another in a netrc file."""
    netrc = tmp_path / "home" / "netrc"
    netrc.parent.mkdir()
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {NETRC}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "tokenizers-are-no-secret")


def holding(secret, *folders):
    """Files that hold a secret, in plain bytes."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if secret.encode() in path.read_bytes()]


def test_a_tracked_run_writes_no_key_anywhere(obliq, tmp_path, shared_store):
    found = obliq(*SHORT, "tracking=offline", "tracking.notes=why")
    assert found.status == 0, found.text
    (run,) = found.folder.glob("wandb/offline-run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "digits-rtn-w4" in told and '"notes":"why"' in told
    for secret in (KEY, NETRC):
        assert holding(secret, found.folder, shared_store, tmp_path / "user") == []
        assert secret not in told + found.text


REFUSED = {
    "+tracking.api_key=abc": "tracking.api_key holds a secret",
    "++tracking.settings.password=abc": "password holds a secret",
    "+tracking.wandb_token=abc": "wandb_token holds a secret",
    "api_key=abc": "api_key holds a secret",
    f"tracking.notes=key-{KEY}": "tracking.notes holds the value of WANDB_API_KEY",
    f"tags=[{NETRC}]": "(api.wandb.ai)",
    "tracking.notes=wandb_v1_" + "Ab3" * 20: "tracking.notes holds a secret",
    "+tracking.note2=${oc.env:WANDB_API_KEY}": "tracking.note2 holds the value of WANDB_API_KEY",
}


@pytest.mark.parametrize(("word", "expected"), REFUSED.items(), ids=range(len(REFUSED)))
def test_a_word_that_sets_a_key_is_refused_and_not_repeated(obliq, word, expected):
    found = obliq(*SHORT, "tracking=offline", word)
    text = " ".join(found.text.split())
    assert found.status in (1, 2), text
    assert expected in text and "WANDB_API_KEY" in text and "wandb login" in text
    value = word.partition("=")[2]
    assert value not in text and KEY not in text and NETRC not in text
    if found.folder.exists():
        assert [path for path in found.folder.rglob("config*") if path.is_file()] == []
        assert not any(value.encode() in p.read_bytes() for p in found.folder.rglob("*.*"))


def test_a_key_in_a_configuration_file_is_refused_and_what_was_saved_is_removed(obliq, tmp_path):
    group = tmp_path / "mine" / "tracking"
    group.mkdir(parents=True)
    own = "_target_: pipelines.tracking.NullTracker\napi_key: quite-private\n"
    (group / "own.yaml").write_text(own)
    for more in ([], ["-m"]):
        found = obliq("--config-dir", str(tmp_path / "mine"), *more, *SHORT, "tracking=own")
        assert found.status == 1 and "tracking.api_key holds a secret" in found.text
        assert "quite-private" not in found.text
        assert holding("quite-private", found.folder) == []


def test_names_of_settings_and_variables_are_told_apart(monkeypatch):
    for name in ("tokenizer", "max_tokens", "pad_token", "monkey", "keys", "notes"):
        secrets.check_arguments([f"data.{name}=anything"])
    for name in ("GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "API_KEY"):
        monkeypatch.setenv(name, f"value-of-{name}")
        assert secrets.redact(f"a value-of-{name} b") == "a [removed] b"
    assert secrets.redact("tokenizers-are-no-secret") == "tokenizers-are-no-secret"
    monkeypatch.setenv("API_KEY", "short")
    assert secrets.redact("a short text") == "a short text"


def test_settings_without_secrets_pass():
    secrets.check_settings({"bits": 4, "tags": ["a"], "tracking": {"notes": None, "key": ""}})
    with pytest.raises(ValueError, match=r"data\.roots holds the value of WANDB_API_KEY"):
        secrets.check_settings({"data": {"roots": ["/a", f"/b/{KEY}"]}})


def test_an_error_is_written_without_keys(obliq, monkeypatch):
    from pipelines.stages.calibrate import Calibrate

    def fails(*args, **more):
        raise ValueError(f"cannot reach https://user:{KEY}@example.org")

    monkeypatch.setattr(Calibrate, "run", fails)
    found = obliq(*SHORT, "damping=0.033", "calibrate.images=90", "tracking=offline")
    assert found.status == 1 and "cannot reach https://user:[removed]@example.org" in found.text
    assert "[removed]" in (found.folder / "error.log").read_text()
    assert holding(KEY, found.folder) == []
    assert json.dumps(KEY) not in found.text
