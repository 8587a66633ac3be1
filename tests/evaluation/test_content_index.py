"""Digests of files, remembered only as long as nothing about a file has changed."""

from __future__ import annotations

import hashlib
import os
import shutil

import pytest

from evaluation import content_index
from evaluation.content_index import GRANULARITY, ContentIndex

LATER = 10 * GRANULARITY


@pytest.fixture
def files(tmp_path):
    """Two files, and a clock that stands long after they were written."""
    for name in ("a.png", "b é\n.png"):
        (tmp_path / name).write_bytes(name.encode())
    written = max(os.stat(tmp_path / "a.png").st_ctime_ns, os.stat(tmp_path).st_mtime_ns)
    return tmp_path, lambda: written + LATER


def sha(content):
    return hashlib.sha256(content).hexdigest()


def reads(monkeypatch):
    """The names of files that are hashed from now on."""
    seen = []
    plain = content_index.read
    monkeypatch.setattr(content_index, "read", lambda path: (seen.append(path), plain(path))[1])
    return seen


def test_a_digest_is_that_of_the_bytes_and_is_remembered_by_the_next_run(files, monkeypatch):
    folder, now = files
    index = ContentIndex(folder / "index", now)
    for path in folder.glob("*.png"):
        assert index.digest(path) == sha(path.read_bytes())
    index.save()
    seen = reads(monkeypatch)
    again = ContentIndex(folder / "index", now)
    for path in folder.glob("*.png"):
        assert again.digest(path) == sha(path.read_bytes())
    assert seen == []


def inverted(path):
    """Other bytes, as many of them, with the old modification time."""
    before = os.stat(path)
    path.write_bytes(bytes(255 - x for x in path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path):
    """Another file of the same size and time in its place: another inode."""
    before = os.stat(path)
    other = path.with_name("other")
    other.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def grown(path):
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize("change", [inverted, replaced, grown])
def test_a_changed_file_is_hashed_again(files, change):
    folder, now = files
    path = folder / "a.png"
    index = ContentIndex(folder / "index", now)
    before = index.digest(path)
    index.save()
    change(path)
    for fresh in (index, ContentIndex(folder / "index", now)):
        assert fresh.digest(path) == sha(path.read_bytes()) != before


def test_what_was_hashed_while_its_times_could_still_stay_the_same_is_not_remembered(files):
    folder, now = files
    path = folder / "a.png"
    young = ContentIndex(folder / "index", lambda: now() - LATER + GRANULARITY // 2)
    young.digest(path)
    young.save()
    assert not (folder / "index").exists()
    before = os.stat(path)
    path.write_bytes(b"A.PNG")  # within the same tick: a coarse clock gives the same times
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert young.digest(path) == sha(b"A.PNG")


@pytest.mark.parametrize("damage", ["cut", "mixed", "bytes", "empty"])
def test_damaged_lines_are_ignored_and_the_others_count(files, damage, monkeypatch):
    folder, now = files
    index = ContentIndex(folder / "index", now)
    good = {path: index.digest(path) for path in folder.glob("*.png")}
    index.save()
    text = (folder / "index").read_bytes()
    first, second, _ = text.split(b"\n")
    (folder / "index").write_bytes(
        {
            "cut": first + b"\n" + second[:-3],
            "mixed": first[:40] + second + first[40:] + b"\n" + second + b"\n",
            "bytes": first.replace(b"1", b"2") + b"\n" + second + b"\n" + bytes(range(128)),
            "empty": b"",
        }[damage]
    )
    seen = reads(monkeypatch)
    again = ContentIndex(folder / "index", now)
    assert {path: again.digest(path) for path in good} == good
    assert len(seen) == (2 if damage == "empty" else 1)


def test_a_copied_index_does_not_speak_for_another_folder(files):
    folder, now = files
    index = ContentIndex(folder / "index", now)
    index.digest(folder / "a.png")
    index.save()
    (folder / "elsewhere").mkdir()
    shutil.copy(folder / "index", folder / "elsewhere" / "index")
    (folder / "elsewhere" / "a.png").write_bytes(b"other")
    other = ContentIndex(folder / "elsewhere" / "index", now)
    assert other.digest(folder / "elsewhere" / "a.png") == sha(b"other")


def test_an_index_that_cannot_be_written_costs_nothing_else(files, tmp_path):
    folder, now = files
    (tmp_path / "file").write_text("")
    index = ContentIndex(tmp_path / "file" / "index", now)
    assert index.digest(folder / "a.png") == sha(b"a.png")
    index.save()


def test_an_index_that_has_grown_is_folded(files):
    folder, now = files
    path = folder / "a.png"
    for k in range(5):
        index = ContentIndex(folder / "index", now)
        os.utime(path, ns=(k, k))
        index.digest(path)
        index._new *= 300
        index.save()
    ContentIndex(folder / "index", now)
    assert len((folder / "index").read_text().splitlines()) == 301, "of 1500"
    assert ContentIndex(folder / "index", now).digest(path) == sha(b"a.png")
