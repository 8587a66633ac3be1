from __future__ import annotations

import errno
import os

import pytest

from pipelines.machine import disk


def test_a_file_is_replaced_when_it_is_whole_and_on_the_disk(tmp_path, monkeypatch):
    path, seen = tmp_path / "report.html", []
    path.write_text("old")
    through = disk.fsync

    def writing(draft):
        seen.append((draft.read_text(), path.read_text()))
        through(draft)

    monkeypatch.setattr(disk, "fsync", writing)
    with disk.replacing(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old" and draft.suffix == ".html"
    assert seen == [("new", "old")] and path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_finished_leaves_the_old_one_and_no_draft(tmp_path):
    path = tmp_path / "layers.csv"
    path.write_text("old")

    def interrupted():
        with disk.replacing(path) as draft:
            draft.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_write_through_takes_files_and_folders(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), fsync(file))
    )
    (tmp_path / "file").write_text("x")
    disk.fsync(tmp_path / "file")
    disk.fsync(tmp_path)
    assert synced == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (
            errno.ENOSPC,
            "no space left for /a/b: free some space, or set hydra.run.dir to another disk",
        ),
        (errno.EDQUOT, "no space left for /a/b"),
        (
            errno.EROFS,
            "the report cannot write /a/b (Read-only file system): "
            "set hydra.run.dir to a writable folder",
        ),
    ],
)
def test_what_a_disk_answers_becomes_what_a_person_can_do(number, says):
    def refused():
        with disk.explained("/a/b", "the report", "set hydra.run.dir to"):
            raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match="the same command resumes from there") as caught:
        refused()
    assert caught.value.strerror.startswith(says)
    assert caught.value.errno in (number, errno.ENOSPC)
