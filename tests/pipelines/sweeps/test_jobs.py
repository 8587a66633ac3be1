"""What the jobs of a sweep tell the process that started it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipelines.machine.screen import Screen
from pipelines.sweeps import jobs

JOBLIB, RAY = "hydra_plugins.x.JoblibLauncher", "hydra_plugins.y.RayLauncher"
LOCAL, SLURM = "hydra_plugins.z.LocalLauncher", "hydra_plugins.z.SlurmLauncher"


@pytest.mark.parametrize(
    ("launcher", "batch", "threads"),
    [
        ({"_target_": JOBLIB, "n_jobs": 4}, None, 4),
        ({"_target_": JOBLIB, "n_jobs": 3}, None, 5),
        ({"_target_": JOBLIB, "n_jobs": -1}, None, 1),
        ({"_target_": JOBLIB, "n_jobs": 64}, None, 1),
        ({"_target_": RAY, "n_jobs": 2}, None, 8),
        ({"_target_": LOCAL}, 2, 8),
        ({"_target_": LOCAL}, None, 1),
        ({"_target_": SLURM, "cpus_per_task": 6}, None, 6),
        ({"_target_": SLURM, "cpus_per_task": None}, None, None),
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, None, None),
    ],
)
def test_jobs_that_run_at_once_divide_the_cores(launcher, batch, threads):
    assert jobs.threads_each(launcher, batch, available=16) == threads


def finished(root):
    out = io.StringIO()
    status = jobs.finish(Screen(Console(file=out, width=200)))
    return status, out.getvalue()


def test_a_sweep_without_failures_ends_with_status_0_and_one_line(tmp_path):
    jobs.begin(tmp_path)
    for number in (1, 0):
        jobs.Outcome(number, f"job{number}", str(tmp_path / str(number))).write(tmp_path)
        jobs.Outcome(number, f"job{number}", str(tmp_path / str(number))).ended(tmp_path, 0)
    assert [outcome.number for outcome in jobs.outcomes(tmp_path)] == [0, 1]
    status, text = finished(tmp_path)
    assert status == 0 and "2 jobs; files" in text and "✗" not in text


@pytest.mark.parametrize(("status", "error"), [(1, "bits=99 is too much\nmore"), (3, "unreached")])
def test_a_job_that_failed_is_named_and_gives_the_sweep_its_status(tmp_path, status, error):
    jobs.begin(tmp_path)
    jobs.Outcome(0, "good", str(tmp_path / "0")).ended(tmp_path, 0)
    jobs.Outcome(1, "bad", str(tmp_path / "1")).ended(tmp_path, status, error)
    found, text = finished(tmp_path)
    assert found == status
    assert f"job 1 bad: {error.splitlines()[0]}\n" in text and "1 of them failed" in text


def test_a_job_that_was_killed_has_no_end_and_counts_as_failed(tmp_path):
    jobs.begin(tmp_path)
    jobs.Outcome(0, "good", str(tmp_path / "0")).ended(tmp_path, 0)
    jobs.Outcome(1, "gone", str(tmp_path / "1")).write(tmp_path)
    status, text = finished(tmp_path)
    assert status == jobs.DIED and "job 1 gone: it did not end" in text


def test_a_second_sweep_into_the_same_folder_forgets_the_failures_of_the_first(tmp_path):
    jobs.begin(tmp_path)
    jobs.Outcome(0, "bad", str(tmp_path)).ended(tmp_path, 1, "no")
    assert finished(tmp_path)[0] == 1
    jobs.begin(tmp_path)
    jobs.Outcome(0, "bad", str(tmp_path)).ended(tmp_path, 0)
    assert finished(tmp_path)[0] == 0
    assert finished(tmp_path) == (0, ""), "no sweep has started since"


def test_lines_of_a_job_beside_others_go_out_whole_and_behind_its_name():
    out = io.StringIO()
    writes, write = [], out.write
    out.write = lambda text: (writes.append(text), write(text))[1]
    screen = Screen(Console(file=jobs.Prefixed(out, "3 gptq-w2"), width=40, highlight=False))
    screen.line("first\n\nsecond")
    screen.console.print("no end yet", end="")
    assert out.getvalue() == "[3 gptq-w2] first\n[3 gptq-w2] second\n"
    screen.line("")
    assert out.getvalue().endswith("[3 gptq-w2] no end yet\n")
    assert len(writes) == 2, "a line is never written in pieces"
    with screen.busy("x"), screen.bar("y", 3) as advance:
        advance(1)
    assert len(writes) == 2, "no bars beside other jobs"
