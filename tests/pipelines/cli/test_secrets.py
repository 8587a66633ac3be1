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


PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n{}\n-----END OPENSSH PRIVATE KEY-----\n".format(
    "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU" * 2, "QyNTUxOQAAACDabcdefghijklmnopqrs" * 2
)
SHAPES = {
    "AWS": "AKIA" + "ABCDEFGH12345678",
    "Slack": "xoxb-123456789012-" + "abcdefABCDEF0123456789",
    "GitLab": "glpat-" + "abcdefghij0123456789",
    "GitHub": "ghp_" + "a1B2" * 9,
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "Stripe": "sk_live_" + "a1B2c3D4e5F6" * 2,
    "key file": PRIVATE,
}


@pytest.mark.parametrize("kind", SHAPES)
def test_what_has_the_shape_of_a_secret_is_removed_and_refused_as_a_setting(kind):
    secret = SHAPES[kind]
    diff = "".join(f"+{line}\n" for line in f"key = {secret}".splitlines())
    shown = secrets.redact(f"a = 1\n{diff} b = 2\n")
    assert "[removed]" in shown and shown.startswith("a = 1\n+") and shown.endswith(" b = 2\n")
    assert not any(line in shown for line in secret.splitlines())
    with pytest.raises(ValueError, match=r"data\.note holds a secret"):
        secrets.check_settings({"data": {"note": secret}})


def test_the_password_of_an_address_is_removed_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://me:hunter2-and-more@db.example.org:5432/x")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:another-quiet-one@proxy:8080")
    shown = secrets.redact("hunter2-and-more, another-quiet-one, ftp://you:third-one@host/a")
    assert shown == "[removed], [removed], ftp://you:[removed]@host/a"
    with pytest.raises(ValueError, match="holds a secret"):
        secrets.check_arguments(["data.root=s3://me:quite-private@host/images"])
    secrets.check_arguments(["data.root=s3://bucket/a:b/images", "data.root=http://host:8080/a@b"])


def test_every_line_of_a_secret_of_several_lines_is_removed(monkeypatch):
    monkeypatch.setenv("MY_SECRET", "first-line-of-a-secret\nsecond-line-of-a-secret\n")
    assert secrets.redact("x second-line-of-a-secret y") == "x [removed] y"


NAMES = (
    "db_pass", "api-key", "apiKey", "accessToken", "clientSecret", "gitlab_pat", "sas_token",
    "PGPASSWORD", "secret-key", "refreshToken",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_a_secret_is_known_however_it_is_written(name, monkeypatch):
    assert secrets.is_secret(name)
    with pytest.raises(ValueError, match="holds a secret"):
        secrets.check_settings({"data": {name: "quite-private"}})
    monkeypatch.setenv(name.replace("-", "_"), "quite-private")
    assert secrets.redact("a quite-private b") == "a [removed] b"


@pytest.mark.parametrize("name", ["cd_passes", "pad_token", "pattern", "compare", "pat", "keys"])
def test_a_name_that_only_looks_like_one_is_not(name):
    assert not secrets.is_secret(name)


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
