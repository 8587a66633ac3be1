"""docs/results-json.md has every key that a run writes, and none that no run writes."""

from __future__ import annotations

import json

import pytest

from tests.docs import schema, tiny
from tests.docs.blocks import ROOT
from tests.docs.commands import quiet

PAGE = ROOT / "docs" / "results-json.md"
SHORT = ("baseline.budget=0", "report.heatmaps=0", "pictures.count=1")
DIGITS = ("experiment=digits", "calibrate.images=64")
RUNS = {
    "classification": lambda folder: [*DIGITS, "bits=3", "batchnorm=none"],
    "eptq": lambda folder: [
        *DIGITS, "bits=2", "act_bits=8", "method=eptq", "schedule=cpu", "cpu_steps=20",
        "method.held_out=32", "label_free.draws=2",
    ],
    "mixed": lambda folder: [
        *DIGITS, "precision=mixed", "precision.choices=[2,8]", "precision.activations=true",
        "precision.cost=measured", "precision.target=0.9", "precision.images=32",
        "precision.perturbations.images=16", "precision.traces.images=16",
        "precision.check_predictions=3", "precision.costs.measured.repeats=3",
    ],
    "detection": tiny.detection,
    "segmentation": lambda folder: [
        *tiny.segmentation(folder), "act_bits=8", "activations.placement=outputs",
    ],
    "text": tiny.text,
    "search": lambda folder: [*DIGITS, "objective=kl", "objective.images=16"],
}  # fmt: skip

# documented, but not written without a GPU, from a clean checkout, or with a store that no other
# version has filled
ELSEWHERE = {
    "machine.gpus", "machine.cuda", "machine.driver", "source.diff_sha256", "source.diff_complete",
    "computed_with.<stage>", "computed_with.<stage>.<library>",
}  # fmt: skip


@pytest.fixture(scope="module")
def page():
    return schema.read(PAGE)


@pytest.fixture(scope="module")
def files(tmp_path_factory, store):
    """What a run of every kind has written, by its kind."""
    from tests.docs.commands import Reader

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OBLIQ_CACHE", str(store))
        for name, overrides in RUNS.items():
            folder = tmp_path_factory.mktemp(name)
            words = [*overrides(folder), *SHORT, f"hydra.run.dir={folder / 'out'}"]
            outcome = Reader(folder)._in_process("obliq", [*words, *quiet(words)])
            assert outcome.status == 0, f"{name}: {words}"
            (written,) = [*folder.glob("out/results.json"), *folder.glob("out/objective.json")]
            found[name] = json.loads(written.read_text())
    return found


@pytest.mark.slow
def test_every_key_of_a_run_is_documented_with_its_type(page, files):
    wrong = []
    for name, content in files.items():
        for path, value in schema.keys(content):
            rows = page.rows_of(path)
            if not any(row.allows(value) for row in rows):
                wrong.append(f"{name}: {'.'.join(path)} is {value!r}, the page has {rows}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_every_documented_key_is_written_by_some_run(page, files):
    seen = {
        row.key for x in files.values() for path, _ in schema.keys(x) for row in page.rows_of(path)
    }
    absent = {row.key for row in page.rows} - seen
    assert absent <= ELSEWHERE
    for name, values in page.names.items():
        parts = {part for x in files.values() for path, _ in schema.keys(x) for part in path}
        assert values <= parts, f"{name}: nothing is called {values - parts}"


@pytest.mark.slow
def test_what_is_always_there_is_always_there(page, files):
    for name, content in files.items():
        for path, held in schema.objects(content):
            if name == "search" and not path:
                continue  # has fewer keys, see below
            for row in page.always_in(path):
                assert row.path[-1] in held, f"{name}: {row.key} is said to be there always"


@pytest.mark.slow
def test_the_keys_of_a_trial_are_those_that_the_page_lists(files):
    text = PAGE.read_text().split("## objective.json")[1].split("| Key")[0]
    listed = {word for word in text.split("`") if f"`{word}`" in text}
    top = set(files["search"]) - {"objective", "calibrated_on", "held_out"}
    assert top <= listed


SAMPLE = """
| Key | Type | Unit | Present | |
|---|---|---|---|---|
| `drop` | object | | always | |
| `drop.points` | number or null | points | always | |
| `layers[].name` | string | | always | |
| `seconds.<stage>` | number | s | always | |

| `<stage>` | |
|---|---|
| `calibrate`, `total` | |
"""


def test_the_tables_are_read_as_they_are_meant(tmp_path):
    (tmp_path / "page.md").write_text(SAMPLE)
    page = schema.read(tmp_path / "page.md")
    (row,) = page.rows_of(("layers", "[]", "name"))
    assert row.allows("conv1") and not row.allows(3)
    (points,) = page.rows_of(("drop", "points"))
    assert points.allows(None) and points.allows(0.5) and not points.allows(True)
    assert page.rows_of(("seconds", "total")) and not page.rows_of(("seconds", "evaluate"))
    assert not page.rows_of(("drop", "interval"))
    found = dict(schema.keys({"layers": [{"name": "a"}], "settings": {"bits": 4}, "n": 1}))
    assert set(found) == {("layers",), ("layers", "[]", "name"), ("settings",), ("n",)}
    assert [path for path, _ in schema.objects({"drop": {"points": 1}, "layers": [{}]})] == [
        (), ("drop",), ("layers", "[]"),
    ]  # fmt: skip
    assert [row.key for row in page.always_in(())] == ["drop"]
    assert [row.key for row in page.always_in(("layers", "[]"))] == ["layers[].name"]
