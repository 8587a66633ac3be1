"""Metrics, closeness and geometry against loops over pixels, on images of a few pixels."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evaluation import mask_pictures
from evaluation.decoding import decode_file
from evaluation.jackknife import jackknife
from evaluation.samples import Files, Samples
from evaluation.segmentation import IGNORE, PADDING, SegmentationData

CONFIG = {
    "input_size": (3, 8, 10),
    "interpolation": "nearest",
    "mean": (0.5, 0.25, 0.5),
    "std": (0.5, 0.5, 0.25),
    "crop_pct": 1.0,
    "crop_mode": "pad",
}
SIZES = [(10, 8), (6, 5), (7, 8), (10, 3), (9, 7)]  # width, height
C = 4


class Shapes(SegmentationData):
    """Images i.png and masks masks/i.png below the root; those of calibration/ have none."""

    names = ("ground", "red", "green", "blue")
    palette = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))

    def pools(self) -> tuple[Samples, Samples]:
        self.mask_files = Files(self.root)
        return samples(self.root / "calibration", False), samples(self.root, True)


def samples(folder, masked) -> Samples:
    ids = sorted(p.name for p in folder.glob("*.png"))
    return Samples(
        ids=tuple(ids),
        labels=tuple(f"masks/{name}" if masked else "" for name in ids),
        blob=Files(folder),
        decode=decode_file,
        sizes=tuple((folder / name).stat().st_size for name in ids),
    )


@pytest.fixture
def root(tmp_path):
    generator = np.random.default_rng(5)
    for folder in ("masks", "calibration"):
        (tmp_path / folder).mkdir()
    for i, (width, height) in enumerate(SIZES):
        photo = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        mask = generator.choice([0, 1, 2, IGNORE], (height, width)).astype(np.uint8)
        Image.fromarray(photo).save(tmp_path / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
        if i < 2:
            Image.fromarray(255 - photo).save(tmp_path / "calibration" / f"{i}.png")
    return tmp_path


def shapes(root, mode="pad", prepare=True, size=(8, 10), **settings) -> Shapes:
    defaults = {"batch_size": 2, "workers": 0, "skip_bad": False, "images": None}
    defaults["report_classes"] = None
    data = Shapes(root, None, **(defaults | settings))
    if prepare:
        data.prepare(CONFIG | {"crop_mode": mode, "input_size": (3, *size)}, 2, 0, 2)
    return data


def network(seed: int) -> nn.Module:
    """A class from the neighbourhood, so that padding and misplacement show."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Conv2d(3, C, 3, padding=1).double().eval()


def outputs(data, net, reference=None):
    with torch.inference_mode():
        parts = [data.outputs(net, reference, (x.double(), y)) for x, y in data.test_dataloader()]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def seen(data, net, i):
    """What the definition says, for image i alone: (logits of its pixels, mask, answer)."""
    photo = Image.open(data.root / f"{i}.png")
    mask = np.array(Image.open(data.root / "masks" / f"{i}.png"))
    h, w = data._data_config["input_size"][1:]
    own = (
        photo.resize((w, h), Image.NEAREST) if data._data_config["crop_mode"] == "squash" else photo
    )
    x = torch.zeros(3, h, w, dtype=torch.float64)
    for row in range(own.height):
        for column in range(own.width):
            for channel, value in enumerate(own.getpixel((column, row))):
                mean, std = (np.float32(CONFIG[key][channel]) for key in ("mean", "std"))
                single = (np.float32(value) / np.float32(255) - mean) / std
                x[channel, row, column] = float(single)
    logits = net(x[None])[0].detach()[:, : own.height, : own.width]
    answer = np.zeros_like(mask)
    for row, column in np.ndindex(*mask.shape):
        under = (
            math.floor(Fraction(2 * at + 1, 2) * there / here)
            for at, there, here in zip((row, column), logits.shape[1:], mask.shape, strict=True)
        )
        answer[row, column] = logits[(slice(None), *under)].argmax()
    return logits, mask, answer


def counted(data, net, images):
    table = [[0] * C for _ in range(C)]
    for i in images:
        _, mask, answer = seen(data, net, i)
        for t, a in zip(mask.ravel().tolist(), answer.ravel().tolist(), strict=True):
            if t != IGNORE:
                table[t][a] += 1
    return table


def ious(table):
    found = []
    for c in range(C):
        union = sum(table[c]) + sum(row[c] for row in table) - table[c][c]
        found.append(table[c][c] / union if union else None)
    return found


def average(values):
    there = [v for v in values if v is not None]
    return 100 * sum(there) / len(there)


MODES = pytest.mark.parametrize("mode", ["pad", "squash"])


@MODES
def test_confusions_and_metrics_equal_counting_pixel_by_pixel(root, mode):
    data, net = shapes(root, mode, report_classes=[1, 2]), network(1)
    found = outputs(data, net)
    for i in range(len(SIZES)):
        assert found["confusion"][i].tolist() == counted(data, net, [i])
    table = counted(data, net, range(len(SIZES)))
    right, total = sum(table[c][c] for c in range(C)), sum(map(sum, table))
    metrics = data.metrics(found)
    assert metrics.keys() == {"miou", "pixel_accuracy", "miou_subset"}
    assert metrics["miou"] == pytest.approx(average(ious(table)), abs=1e-9)
    assert metrics["miou_subset"] == pytest.approx(average(ious(table)[1:3]), abs=1e-9)
    assert metrics["pixel_accuracy"] == pytest.approx(100 * right / total, abs=1e-9)
    percent = [v if v is None else pytest.approx(100 * v, abs=1e-9) for v in ious(table)]
    named = dict(zip(Shapes.names, percent, strict=True))
    assert data.details(found) == {"IoU by class": named}


@MODES
def test_closeness_equals_loops_over_the_pixels_of_the_image_and_no_padding(root, mode):
    data, f, q = shapes(root, mode), network(1), network(2)
    kept = outputs(data, q, f)
    kl, pixels, same, signal, noise = 0.0, 0, 0, 0.0, 0.0
    for i in range(len(SIZES)):
        pairs = (seen(data, net, i)[0].flatten(1).T.tolist() for net in (f, q))
        for a, b in zip(*pairs, strict=True):
            za, zb = (sum(map(math.exp, v)) for v in (a, b))
            for u, v in zip(a, b, strict=True):
                kl += math.exp(u) / za * math.log(math.exp(u) / za / (math.exp(v) / zb))
                signal, noise = signal + u * u, noise + (u - v) ** 2
            pixels, same = pixels + 1, same + (a.index(max(a)) == b.index(max(b)))
    expected = 80 * len(SIZES) if mode == "squash" else sum(w * h for w, h in SIZES)
    assert pixels == expected and 0 < same < pixels
    assert kept["distance"].shape == (len(SIZES), 6)
    figures = data.fidelity(outputs(data, f), kept)
    assert figures["agreement"] == pytest.approx(100 * same / pixels, abs=1e-9)
    assert figures["kl"] == pytest.approx(kl / pixels, abs=1e-9)
    assert figures["sqnr_db"] == pytest.approx(10 * math.log10(signal / noise), abs=1e-9)


def test_the_distance_of_raw_outputs_is_over_all_pixels_of_all_images(root, monkeypatch):
    monkeypatch.setattr("evaluation.segmentation.PIECE", 7)
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(3, C, 5, 4, generator=generator, dtype=torch.float64)
    q = f + torch.randn(3, C, 5, 4, generator=generator, dtype=torch.float64)
    found = shapes(root, prepare=False).distance(network(1), f, q)
    log_p, log_q = f.log_softmax(1), q.log_softmax(1)
    assert found.distributions == found.decisions == 60
    assert found.agreeing == int((f.argmax(1) == q.argmax(1)).sum())
    assert found.kl == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum()), abs=1e-9)
    assert found.signal == pytest.approx(float((f**2).sum()), abs=1e-9)
    assert found.noise == pytest.approx(float(((f - q) ** 2).sum()), abs=1e-9)


def test_what_training_minimises_is_the_mean_kl_of_pixels(root):
    data = shapes(root)
    draw = torch.Generator().manual_seed(0)
    f, q = (torch.randn(2, 4, 3, 2, generator=draw) for _ in range(2))
    assert float(data.divergence(network(0), f, f).abs().max()) < 1e-6
    found = data.divergence(network(0), f, q)
    for image in range(2):
        total = 0.0
        for i in range(3):
            for j in range(2):
                a, b = (z[image, :, i, j].double().softmax(0) for z in (f, q))
                total += float((a * (a / b).log()).sum()) / 6
        assert float(found[image]) == pytest.approx(total, rel=1e-5)
    kl = data.distance(network(0), f, q).figures()["kl"]
    assert float(found.mean()) == pytest.approx(kl, rel=1e-5)


def test_the_drop_is_of_the_mean_iou_and_leaves_out_one_image_at_a_time(root):
    data, f, q = shapes(root), network(1), network(2)

    def difference(images):
        return average(ious(counted(data, f, images))) - average(ious(counted(data, q, images)))

    every = set(range(len(SIZES)))
    expected = jackknife(difference(every), [difference(every - {i}) for i in sorted(every)])
    found = data.drop(outputs(data, f), outputs(data, q))
    assert abs(expected["points"]) > 0.1
    assert found["points"] == pytest.approx(expected["points"], abs=1e-9)
    assert found["ci95"] == pytest.approx(expected["ci95"], abs=1e-9)


def test_an_image_without_a_labelled_pixel_does_not_count_in_the_interval(root):
    data, f, q = shapes(root), outputs(shapes(root), network(1)), outputs(shapes(root), network(2))
    empty = torch.zeros(3, C, C, dtype=torch.int64)
    longer = [{"confusion": torch.cat((o["confusion"], empty))} for o in (f, q)]
    assert data.drop(*longer) == data.drop(f, q)


def test_one_image_alone_has_a_drop_of_any_size(root):
    data = shapes(root, images=1)
    assert data.drop(*(outputs(data, network(i)) for i in (1, 2)))["ci95"] == [-100.0, 100.0]


def test_classes_that_do_not_occur_count_for_nothing(root):
    data = shapes(root, report_classes=[3], prepare=False)
    table = torch.zeros(1, C, C, dtype=torch.int64)
    table[0, 0, 0], table[0, 0, 1] = 3, 1
    assert data.metrics({"confusion": table}) == {"miou": 37.5, "pixel_accuracy": 75.0}
    per_class = data.details({"confusion": table})["IoU by class"]
    assert per_class == {"ground": 75.0, "red": 0.0}
    with pytest.raises(ValueError, match="no pixel is labelled: all 1 masks are 255"):
        data.metrics({"confusion": 0 * table})


def test_padding_is_zero_after_normalisation_and_told_apart_from_ignored_pixels(root):
    data = shapes(root)
    x, y = next(iter(data.test_dataloader()))
    assert (x.shape, y.shape, y.dtype) == ((2, 3, 8, 10), (2, 8, 10), torch.int64)
    assert not x[1, :, 5:].any() and not x[1, :, :, 6:].any()
    assert x[1, :, :5, :6].abs().min() > 0
    assert (y[1] == PADDING).sum() == 80 - 30
    mask = np.array(Image.open(root / "masks" / "1.png"))
    assert IGNORE in mask and y[1, :5, :6].tolist() == mask.tolist()


def test_an_image_larger_than_the_input_is_shrunk_and_answered_for_at_its_own_size(root):
    data = shapes(root, size=(4, 5))
    found = outputs(data, network(1), network(1))
    labelled = [int((np.array(Image.open(root / "masks" / f"{i}.png")) != 255).sum())
                for i in range(5)]  # fmt: skip
    assert found["confusion"].sum((1, 2)).tolist() == labelled
    assert found["distance"][:, 1].tolist() == [20, 4 * 5, 4 * 4, 2 * 5, 4 * 5]  # asked


def test_calibration_images_need_no_mask(root):
    x, y = next(iter(shapes(root).calibration_loader()))
    assert (x.shape, y.shape) == ((2, 3, 8, 10), (2, 0))


def test_loader_processes_give_the_same_batches(root):
    plain, parallel = shapes(root), shapes(root, workers=1)
    for a, b in zip(plain.test_dataloader(), parallel.test_dataloader(), strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_the_key_moves_with_the_content_of_a_mask(root):
    before = shapes(root).evaluation_key
    assert shapes(root).evaluation_key == before
    path = root / "masks" / "1.png"
    mask = np.array(Image.open(path))
    Image.fromarray(mask[::-1]).save(path)
    assert shapes(root).evaluation_key != before
    assert shapes(root).calibration_key == shapes(root, images=2).calibration_key


def test_the_picture_shows_photo_truth_and_every_network_in_captioned_panels(root):
    wrong, blue = network(1), nn.Conv2d(3, C, 1).double()
    with torch.no_grad():
        blue.weight.zero_()
        blue.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    nets = {"float": wrong.float(), "quantized": blue.float()}
    picture = shapes(root).picture(nets, 1)
    assert (picture.mode, picture.width) == ("RGB", 1200)
    photo = np.array(Image.open(root / "1.png")).astype(float)
    top = mask_pictures.GAP + mask_pictures.LINE
    panels = np.array(picture).astype(float)[top : top + 240]
    first, last = panels[:, 8:298], panels[:, -298:-8]
    assert abs(first.mean((0, 1)) - photo.mean((0, 1))).max() < 3
    tinted = 0.4 * photo.mean((0, 1)) + 0.6 * np.array(Shapes.palette[3])
    assert abs(last.mean((0, 1)) - tinted).max() < 3


def test_a_black_class_on_a_black_photo_has_a_white_edge_and_what_is_ignored_has_none():
    photo = Image.new("RGB", (100, 60))
    answer = np.zeros((60, 100), np.uint8)
    answer[20:40, 30:60] = 1
    ignored = np.where(answer == 1, IGNORE, 0).astype(np.uint8)
    picture = mask_pictures.panels(
        photo, {"truth": ignored, "float": answer}, ["nothing", "coal"], [(0, 0, 0), (0, 0, 0)]
    )
    shown, part = np.array(picture), picture.width // 3
    top = mask_pictures.GAP + mask_pictures.LINE
    truth, found = (shown[top : top + 200, i * part + 12 : (i + 1) * part - 12] for i in (1, 2))
    assert (found == 255).all(2).sum() > 100
    assert not (truth == 255).all(2).any()


def save(path, array, mode=None):
    Image.fromarray(np.asarray(array, dtype=np.uint8)).convert(mode).save(path)


BAD = {
    "has the mode RGB: .*palette or greyscale": lambda p: save(p, np.zeros((5, 6, 3))),
    "has the mode 1: ": lambda p: save(p, np.zeros((5, 6)), "1"),
    "is 7x5 but its image is 6x5": lambda p: save(p, np.zeros((5, 7))),
    r"has the values \[4, 254\]: only 0\.\.3 and 255": lambda p: save(
        p, [[0, 4, 254, 255, 0, 0]] * 5
    ),
    "cannot identify image file": lambda p: p.write_bytes(b"<html>404</html>"),
    "truncated|Truncated|incomplete|broken": lambda p: p.write_bytes(p.read_bytes()[:-40]),
}


@pytest.mark.parametrize("message", BAD)
def test_a_mask_that_cannot_be_right_is_named_before_anything_is_computed(root, message):
    BAD[message](root / "masks" / "1.png")
    with pytest.raises(ValueError, match=rf"(?s)1 of 5 masks.*1\.png: .*({message})") as error:
        shapes(root).check()
    assert "data.skip_bad=true" in str(error.value)
    data = shapes(root, skip_bad=True)
    data.check()
    assert data.evaluation.ids == ("0.png", "2.png", "3.png", "4.png")
    assert set(data.skipped) == {"1.png"}
    assert len(outputs(data, network(1))["confusion"]) == 4


def test_masks_of_which_none_can_be_used_are_an_error_even_when_skipping(root):
    for i in range(5):
        (root / "masks" / f"{i}.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"5 of 5 masks cannot be used") as error:
        shapes(root, skip_bad=True).check()
    assert "skip_bad" not in str(error.value)


def test_a_mask_that_is_not_there_is_named(root):
    (root / "masks" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 5 evaluation .*2\.png \(masks/2\.png\)"):
        shapes(root)


@pytest.mark.parametrize("change", [{"crop_mode": "center"}, {"crop_pct": 0.9}])
def test_a_config_that_would_cut_the_image_off_is_refused(root, change):
    with pytest.raises(ValueError, match="crop_mode to pad or squash, and crop_pct to 1"):
        shapes(root, prepare=False).prepare(CONFIG | change, 2, 0, 2)


@pytest.mark.parametrize("chosen", [[], [4], [-1], [1, 1]])
def test_report_classes_out_of_range_are_refused(root, chosen):
    with pytest.raises(ValueError, match=r"data\.report_classes=.*0\.\.3, or null"):
        shapes(root, prepare=False, report_classes=chosen)


class Wrapped(nn.Module):
    def forward(self, x):
        return {"out": x}


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (nn.Conv2d(3, 5, 1), r"\[2, 5, 8, 10\]"),
        (nn.Conv2d(3, C, 1, stride=2), r"\[2, 4, 4, 5\]"),
        (nn.Flatten(), r"\[2, 240\]"),
        (Wrapped(), "dict"),
    ],
)
def test_a_network_that_gives_something_else_is_refused(root, net, found):
    with pytest.raises(
        ValueError, match=rf"model x returns {found} .*needs logits \[2, 4, 8, 10\]"
    ):
        shapes(root, prepare=False).check_network(net, "x", torch.zeros(2, 3, 8, 10))
    shapes(root, prepare=False).check_network(nn.Conv2d(3, C, 1), "x", torch.zeros(2, 3, 8, 10))


def test_logits_that_are_not_finite_are_no_answer(root):
    data, net = shapes(root), network(1)
    with torch.no_grad():
        net.bias[2] = math.nan
    with pytest.raises(ValueError, match="logits are not finite for 2 of 2 images"):
        outputs(data, net)
