"""Choosing, comparing by content and finding unreadable images, on images made here."""

import io
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

import evaluation.samples
from evaluation.decoding import decode_file
from evaluation.samples import Files, Samples, choose, spread


def jpeg(color: tuple[int, ...], mode: str = "RGB", kind: str = "JPEG", side: int = 24) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side), color if len(color) > 1 else color[0]).save(buffer, kind)
    return buffer.getvalue()


def folder(path, blobs: dict[str, bytes]) -> Samples:
    path.mkdir(parents=True, exist_ok=True)
    for name, blob in blobs.items():
        (path / name).write_bytes(blob)
    return Samples(
        ids=tuple(blobs),
        labels=tuple(range(len(blobs))),
        blob=Files(path),
        decode=decode_file,
        sizes=tuple(map(len, blobs.values())),
    )


def numbered(n: int) -> Samples:
    return Samples(
        ids=tuple(f"image#{i}" for i in range(n)),
        labels=tuple(i // 10 for i in range(n)),
        blob=str.encode,
        decode=decode_file,
        sizes=(8,) * n,
    )


def test_same_seed_chooses_the_same_images_and_another_seed_others():
    pool = numbered(200)
    assert choose(pool, 50, seed=4).ids == choose(pool, 50, seed=4).ids
    assert choose(pool, 50, seed=4).ids != choose(pool, 50, seed=5).ids


def test_images_are_chosen_without_replacement():
    assert set(choose(numbered(60), 60, seed=0).ids) == set(numbered(60).ids)


def test_images_are_chosen_from_everywhere_in_the_pool():
    labels = choose(numbered(1000), 100, seed=0).labels  # 100 labels, sorted in the pool
    assert min(labels) < 10
    assert max(labels) >= 90
    assert list(labels) != sorted(labels)


def test_fewer_images_of_a_seed_are_the_first_ones_of_more():
    assert choose(numbered(99), 40, seed=1).ids[:10] == choose(numbered(99), 10, seed=1).ids


def test_labels_and_sizes_stay_with_their_images():
    for name, label in zip(
        *(lambda s: (s.ids, s.labels))(choose(numbered(90), 30, 2)), strict=True
    ):
        assert label == int(name.removeprefix("image#")) // 10


@pytest.mark.parametrize("count", [0, 61])
def test_a_pool_that_is_too_small_is_an_error_that_says_how_many_there_are(count):
    with pytest.raises(ValueError, match=r"must lie in 1\.\.60"):
        choose(numbered(60), count, seed=0)


def test_a_part_of_the_images_is_spread_over_all_of_them():
    assert spread(numbered(100), 4).ids == ("image#0", "image#25", "image#50", "image#75")
    assert spread(numbered(100), None).ids == spread(numbered(100), 100).ids == numbered(100).ids
    assert len(set(spread(numbered(100), 99).ids)) == 99


def test_an_image_is_dropped_by_its_content_and_not_by_its_name(tmp_path):
    red, green, blue = jpeg((255, 0, 0)), jpeg((0, 255, 0)), jpeg((0, 0, 255))
    here = folder(tmp_path / "a", {"x.jpg": red, "y.jpg": green, "z.jpg": blue})
    there = folder(tmp_path / "b", {"copy.jpg": red, "y.jpg": blue + b"!", "z.jpg": green})
    assert here.without(there).ids == ("z.jpg",)


def test_same_sizes_do_not_make_images_equal(tmp_path):
    first, second = jpeg((9, 9, 9), kind="BMP"), jpeg((9, 9, 8), kind="BMP")
    assert len(first) == len(second)
    here = folder(tmp_path / "a", {"x.bmp": first})
    assert here.without(folder(tmp_path / "b", {"x.bmp": second})).ids == ("x.bmp",)


def test_images_whose_size_occurs_once_are_never_read(tmp_path):
    here = folder(tmp_path / "a", {"x.jpg": b"1", "y.jpg": b"22"})
    there = folder(tmp_path / "b", {"x.jpg": b"333"})
    (tmp_path / "a" / "x.jpg").unlink()
    (tmp_path / "b" / "x.jpg").unlink()
    assert here.without(there).ids == ("x.jpg", "y.jpg")


def test_the_key_moves_with_names_labels_and_bytes_but_not_with_the_folder(tmp_path):
    blobs = {"x.jpg": b"1", "y.jpg": b"22"}
    samples = folder(tmp_path / "a", blobs)
    assert samples.key == folder(tmp_path / "b", blobs).key
    others = [
        samples.take([0]),
        samples.take([1, 0]),
        folder(tmp_path / "c", {"x.jpg": b"1", "z.jpg": b"22"}),
        folder(tmp_path / "d", {"x.jpg": b"1", "y.jpg": b"223"}),
        Samples(samples.ids, (1, 1), samples.blob, samples.decode, samples.sizes),
        folder(tmp_path / "e", {"x.jpg": b"2", "y.jpg": b"22"}),
    ]
    assert len({samples.key, *(other.key for other in others)}) == 1 + len(others)


def test_an_image_that_changes_after_its_key_was_taken_is_refused(tmp_path):
    samples = folder(tmp_path, {"x.png": jpeg((9, 9, 9), kind="PNG")})
    assert samples.take([0]).image(0).getpixel((0, 0)) == (9, 9, 9)
    assert samples.key
    (tmp_path / "x.png").write_bytes(jpeg((8, 8, 8), kind="PNG"))
    with pytest.raises(ValueError, match=r"x\.png has been changed since this run began"):
        samples.take([0]).image(0)


def test_a_file_that_cannot_be_read_has_a_digest_of_its_own_kind(tmp_path):
    samples = folder(tmp_path, {"x.png": b"1", "y.png": b"2"})
    (tmp_path / "x.png").unlink()
    os.mkfifo(tmp_path / "x.png")
    assert samples.digests[0] == "" != samples.digests[1]


@pytest.mark.parametrize(
    ("mode", "color", "kind", "expected"),
    [
        ("L", (130,), "JPEG", (130, 130, 130)),
        ("CMYK", (0, 255, 255, 0), "JPEG", (255, 0, 0)),
        ("RGBA", (10, 200, 30, 255), "PNG", (10, 200, 30)),
        ("P", (0,), "PNG", (0, 0, 0)),
        ("1", (1,), "PNG", (255, 255, 255)),
        ("LA", (77, 255), "PNG", (77, 77, 77)),
    ],
)
def test_every_colour_mode_is_decoded_to_rgb(mode, color, kind, expected):
    image = decode_file(jpeg(color, mode, kind))
    assert image.mode == "RGB"
    pixel = image.getpixel((12, 12))
    assert all(abs(a - b) <= 3 for a, b in zip(pixel, expected, strict=True))


def test_a_palette_with_transparency_is_decoded_without_a_warning(recwarn):
    buffer = io.BytesIO()
    Image.new("P", (8, 8)).save(buffer, "PNG", transparency=b"\x00\x80")
    assert decode_file(buffer.getvalue()).mode == "RGB"
    assert not recwarn.list


def test_unreadable_images_are_named_with_the_reason_and_all_are_reported_as_done(tmp_path):
    good = jpeg((1, 2, 3), side=200)
    blobs = {
        "a.jpg": good,
        "cut.jpg": good[: len(good) // 2],
        "text.jpg": b"hello",
        "none.jpg": b"",
    }
    samples = folder(tmp_path, blobs)
    (tmp_path / "none.jpg").unlink()
    seen: list[tuple[int, int]] = []
    bad = samples.bad(lambda done, total: seen.append((done, total)))
    assert list(bad) == ["cut.jpg", "text.jpg", "none.jpg"]
    assert "truncated" in bad["cut.jpg"]
    assert "cannot identify" in bad["text.jpg"]
    assert "No such file" in bad["none.jpg"]
    assert seen == [(i, 4) for i in range(1, 5)]


def test_an_interrupted_check_does_not_decode_the_rest(monkeypatch):
    """All threads but the first one to come are busy until the rest has been given up, or not."""
    decoded: list[bytes] = []
    stopped = threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            stopped.set()
            super().shutdown(wait=wait)

    monkeypatch.setattr(evaluation.samples, "ThreadPoolExecutor", Pool)

    def decode(blob: bytes) -> Image.Image:
        decoded.append(blob)
        if blob != first:
            stopped.wait()
        return Image.new("RGB", (1, 1))

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    many = numbered(5000)
    first = many.blob(many.ids[0])
    slow = Samples(many.ids, many.labels, many.blob, decode, many.sizes)
    with pytest.raises(KeyboardInterrupt):
        slow.bad(interrupt)
    assert len(decoded) <= 1 + 32, "as many as there are threads"


def test_samples_of_files_can_be_sent_to_another_process(tmp_path):
    samples = folder(tmp_path, {"x.jpg": jpeg((5, 6, 7))})
    copy = pickle.loads(pickle.dumps(samples))
    assert copy.key == samples.key
    assert copy.decode(copy.blob("x.jpg")).size == (24, 24)
