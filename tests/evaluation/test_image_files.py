"""Files of a data set as people have them: links, pipes, other encodings, names in two forms."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from evaluation.image_files import Spellings, images_below, inside, read, text_lines
from evaluation.imagenet import ImageNet

CONFIG = {
    "input_size": (3, 8, 8),
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "crop_pct": 1.0,
}


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 10, 20)).save(path)
    return path


def classes(root: Path) -> Path:
    for number, name in enumerate(("cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png")):
        picture(root / name, number)
    return root


def imagenet(root: Path, **settings) -> ImageNet:
    defaults = {"batch_size": 4, "workers": 0, "skip_bad": False, "images": None, "classes": 2}
    return ImageNet(str(root), None, **(defaults | settings))


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(OSError, match=rf"{name} is a FIFO or a device"):
            read(tmp_path / name)
    picture(tmp_path / "a.png")
    assert read(tmp_path / "a.png") == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("kind", ["pipe", "device", "link to nowhere"])
def test_what_cannot_be_read_among_the_images_is_named_and_can_be_left_out(tmp_path, kind):
    root = classes(tmp_path)
    bad = root / "dog" / "x.png"
    if kind == "pipe":
        os.mkfifo(bad)
    else:
        bad.symlink_to("/dev/zero" if kind == "device" else "/nowhere/x.png")
    data = imagenet(root)
    data.prepare(CONFIG, 2, seed=0, calibration_batch_size=1)
    with pytest.raises(ValueError, match=r"1 of 5 images cannot be read:\n  dog/x\.png"):
        data.check()
    data = imagenet(root, skip_bad=True)
    data.prepare(CONFIG, 2, seed=0, calibration_batch_size=1)
    data.check()
    assert list(data.skipped) == ["dog/x.png"]
    assert {*data.calibration.ids, *data.evaluation.ids} == {
        "cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png",
    }  # fmt: skip


def test_images_below_a_class_folder_are_found_and_a_circle_of_links_ends(tmp_path):
    root = classes(tmp_path)
    picture(root / "dog" / "more" / "of it" / "e.png")
    (root / "dog" / "more" / "circle").symlink_to(root / "dog")
    _, evaluation = imagenet(root).pools()
    assert dict(zip(evaluation.ids, evaluation.labels, strict=True)) == {
        "cat/a.png": 0,
        "cat/b.png": 0,
        "dog/c.png": 1,
        "dog/d.png": 1,
        "dog/more/of it/e.png": 1,
    }
    assert images_below(root / "dog", deep=False).keys() == {"c.png", "d.png"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_and_other_line_ends_are_no_part_of_a_label(tmp_path, mark, end):
    for name in ("a.png", "b.png"):
        picture(tmp_path / "images" / name)
    text = f"{mark}a.png 0{end}b.png 1{end}"
    (tmp_path / "labels.txt").write_bytes(text.encode())
    assert imagenet(tmp_path).pools()[1].labels == (0, 1)


def test_a_list_in_another_encoding_says_which(tmp_path):
    for content, message in [
        ("a.png 0\n".encode("utf-16"), "UTF-16"),
        ("é.png 0\n".encode("latin-1"), r"not UTF-8 \(byte 0\)"),
    ]:
        (tmp_path / "labels.txt").write_bytes(content)
        with pytest.raises(ValueError, match=rf"labels\.txt is {message}: save it as UTF-8"):
            text_lines(tmp_path / "labels.txt")


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_found_in_either_unicode_form(tmp_path, listed, stored):
    file = unicodedata.normalize(stored, "é.png")
    picture(tmp_path / "images" / file)
    (tmp_path / "labels.txt").write_text(unicodedata.normalize(listed, "é.png 1\n"))
    samples = imagenet(tmp_path).pools()[1]
    assert samples.ids == (f"images/{file}",) and samples.labels == (1,)
    samples.decode(samples.blob(samples.ids[0]))


def test_two_files_whose_names_differ_in_form_only_stay_two():
    forms = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    assert [Spellings(forms).find(name) for name in forms] == forms
    assert Spellings(forms).find("e.png") is None


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", ".."])
def test_a_name_that_leads_out_of_the_folder_is_refused(name):
    with pytest.raises(ValueError, match=r"list line 1 names the file .* outside"):
        inside(name, "list line 1")
    assert inside("a/../b..c.png", "") == "a/../b..c.png"
