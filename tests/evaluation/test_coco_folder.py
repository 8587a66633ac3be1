"""Both layouts of folders with boxes, with real photographs and with all that can be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.boxes import Box, clip
from evaluation.coco import Coco
from evaluation.coco_folder import read as read_folder
from evaluation.coco_names import COCO_NAMES

WIDTH, HEIGHT = 64, 48


def picture(path: Path, mode: str = "RGB", value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = Image.linear_gradient("L").resize((WIDTH, HEIGHT)).point(lambda p: (p + value) % 256)
    shade.convert("RGB").convert(mode).save(path)
    return path


def listing(boxes=(), names=("a.jpg", "b.jpg"), ids=(3, 7, 90)) -> dict:
    """A COCO file; a box is (image number, category id, bbox, further keys)."""
    return {
        "images": [
            {"id": 10 + i, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for i, name in enumerate(names)
        ],
        "categories": [{"id": identity, "name": f"class {identity}"} for identity in ids],
        "annotations": [
            {"id": n, "image_id": 10 + i, "category_id": category, "bbox": bbox, **more}
            for n, (i, category, bbox, more) in enumerate(boxes)
        ],
    }


def coco(root: Path, content, split="val2017", images="images/val2017", names=("a.jpg", "b.jpg")):
    for i, name in enumerate(names):
        picture(root / images / name, value=i)
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def yolo(root: Path, labels: dict[str, str], names=("a.jpg", "b.jpg"), inner="val2017") -> Path:
    for i, name in enumerate(names):
        picture(root / "images" / inner / name, value=i)
    (root / "labels" / inner).mkdir(parents=True)
    for name, text in labels.items():
        (root / "labels" / inner / name).write_text(text)
    return root


def read(root: Path, split: str, *annotations, names=None):
    """The boxes of a folder; YOLO's with COCO's names, whatever the images are called."""
    known = COCO_NAMES if names is None and (root / "labels").is_dir() else names
    has_json = bool(annotations) or (root / "annotations" / f"instances_{split}.json").is_file()
    return read_folder(root, split, *annotations, names=names if has_json else known)


def objects(result) -> dict[str, tuple]:
    return dict(zip(result.samples.ids, result.samples.labels, strict=True))


def test_real_images_have_as_many_boxes_as_their_files_have_lines(data_root):
    result = read(data_root / "coco", "val2017")
    assert len(result.samples) == 128
    for name, boxes in objects(result).items():
        path = data_root / "coco" / "labels" / "val2017" / f"{Path(name).stem}.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        assert [box.class_index for box in boxes] == [int(line.split()[0]) for line in lines]
        width, height = result.samples.decode(result.samples.blob(name)).size
        for box, line in zip(boxes, lines, strict=True):
            cx, cy, w, h = (float(word) for word in line.split()[1:])
            assert (box.x1 + box.x2) / 2 == pytest.approx(cx * width, abs=1e-3)
            assert (box.y1 + box.y2) / 2 == pytest.approx(cy * height, abs=1e-3)
            assert box.area == pytest.approx(w * width * h * height, rel=1e-4)
            assert 0 <= box.x1 < box.x2 <= width and 0 <= box.y1 < box.y2 <= height
    assert result.dropped == 0
    assert result.names == COCO_NAMES and len(set(COCO_NAMES)) == 80
    assert (COCO_NAMES[0], COCO_NAMES[58], COCO_NAMES[79]) == (
        "person",
        "potted plant",
        "toothbrush",
    )


def test_real_calibration_and_evaluation_images_are_different_ones(data_root):
    train, val = (read(data_root / "coco", split).samples for split in ("train2017", "val2017"))
    assert len(val.without(train)) == 128 == len(train)


@pytest.mark.parametrize("images", ["images/val2017", "val2017", "images", "."])
def test_images_of_a_coco_file_are_found_in_every_usual_place(tmp_path, images):
    content = listing([(1, 7, [8, 6, 20, 10], {})])
    result = read(coco(tmp_path, content, images=images), "val2017")
    assert objects(result) == {"a.jpg": (), "b.jpg": (Box(1, 8, 6, 28, 16, 0, 200),)}
    assert result.samples.sizes[0] == (tmp_path / images / "a.jpg").stat().st_size


def test_file_names_with_a_folder_are_taken_relative_to_the_place_that_holds_them(tmp_path):
    names = ("val2017/a.jpg", "val2017/b.jpg")
    root = coco(tmp_path, listing(names=names), images="images", names=names)
    assert read(root, "val2017").samples.ids == names


def test_category_ids_with_gaps_become_their_place_among_the_sorted_ids(tmp_path):
    content = listing([(0, i, [0, 0, 9, 9], {}) for i in (90, 3, 7)], ids=(90, 3, 7))
    result = read(coco(tmp_path, content), "val2017")
    assert [box.class_index for box in objects(result)["a.jpg"]] == [2, 0, 1]
    assert result.names == ("class 3", "class 7", "class 90")


def test_crowds_and_areas_of_outlines_are_kept(tmp_path):
    boxes = [
        (0, 3, [0, 0, 10, 10], {"iscrowd": 1, "area": 37.5}),
        (0, 3, [0, 0, 10, 20], {"iscrowd": 0}),
    ]
    result = read(coco(tmp_path, listing(boxes)), "val2017")
    assert objects(result)["a.jpg"] == (
        Box(0, 0, 0, 10, 10, 1, 37.5),
        Box(0, 0, 0, 10, 20, 0, 200),
    )


def test_boxes_are_clipped_to_the_image_and_those_without_area_there_are_counted(tmp_path):
    boxes = [
        (0, 3, [-5, -7, 20, 20], {}),
        (0, 3, [60, 40, 20, 20], {"area": 400}),
        (0, 3, [WIDTH, 0, 10, 10], {}),  # beyond the right edge
        (0, 3, [0, -10, 10, 10], {}),  # above
        (0, 3, [5, 5, 0, 10], {}),
        (1, 3, [5, 5, 10, -1], {}),
    ]
    result = read(coco(tmp_path, listing(boxes)), "val2017")
    assert objects(result) == {
        "a.jpg": (Box(0, 0, 0, 15, 13, 0, 195), Box(0, 60, 40, 64, 48, 0, 400)),
        "b.jpg": (),
    }
    assert result.dropped == 4


def test_clip_leaves_a_box_that_fills_its_image():
    assert clip(2, (0, 0, 64, 48), (64, 48)) == Box(2, 0, 0, 64, 48, 0, 64 * 48)


def test_files_that_the_coco_file_does_not_list_are_left_alone(tmp_path):
    root = coco(tmp_path, listing(names=("b.jpg",)))
    assert read(root, "val2017").samples.ids == ("b.jpg",)


def test_missing_images_are_counted_and_the_first_five_named(tmp_path):
    names = tuple(f"{i}.jpg" for i in range(9))
    root = coco(tmp_path, listing(names=names), names=names[:2])
    with pytest.raises(ValueError, match="lists 7 of 9 images that are not in") as error:
        read(root, "val2017")
    assert "2.jpg, 3.jpg, 4.jpg, 5.jpg, 6.jpg ...." in str(error.value)
    with pytest.raises(ValueError, match=r"lists 1 of 1 .*images/val2017, .*: x\.jpg\. Add"):
        read(coco(tmp_path / "none", listing(names=("x.jpg",)), names=("y.jpg",)), "val2017")


def changed(key, number=0, **values):
    content = listing([(0, 3, [0, 0, 9, 9], {})])
    entry = content[key][number]
    entry |= values
    for name in [name for name, value in entry.items() if value == "gone"]:
        del entry[name]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{'images': ", "is not valid JSON: .*complete"),
        (json.dumps(listing())[:-20], "is not valid JSON: .*complete"),
        ([], "holds a list: expected a JSON object"),
        ({"images": [], "categories": []}, "lists no images"),
        ({"categories": []}, "has no `images`"),
        ({"images": [], "annotations": []}, "has no `categories`"),
        (listing() | {"annotations": {}}, "`annotations` must be a list of objects"),
        ({k: v for k, v in listing().items() if k != "annotations"}, "has no `annotations`"),
        (changed("annotations", image_id=99), r"annotations\[0\] has the image_id 99, which"),
        (changed("annotations", category_id=4), r"annotations\[0\] has the category_id 4, which"),
        (changed("annotations", category_id="3"), "has the category_id '3'"),
        (changed("annotations", bbox="gone"), r"annotations\[0\] has no `bbox`"),
        (changed("annotations", bbox=[1, 2, 3]), r"has bbox=\[1, 2, 3\]: expected x, y"),
        (changed("annotations", bbox=[1, 2, 3, None]), r"has bbox=.*None\]: expected x, y"),
        (changed("annotations", bbox=[1, 2, 3, float("nan")]), r"has bbox=.*nan\]: expected x, y"),
        (changed("annotations", iscrowd=2), "has iscrowd=2: expected 0 or 1"),
        (changed("annotations", area="big"), "has area='big': expected a number"),
        (changed("images", width="gone"), "image 10 has no `width`"),
        (changed("images", height=0), "image 10 is 64 x 0 pixels"),
        (changed("images", file_name="gone"), "image 10 has no `file_name`"),
        (changed("images", file_name="b.jpg"), r"lists b\.jpg twice"),
        (changed("images", id=11), r"images\[1\] has the id 11: ids must be unique"),
        (changed("categories", id=7), r"categories\[1\] has the id 7: ids must be unique"),
        (changed("categories", id="one"), r"categories\[0\] has the id 'one'"),
        (changed("categories", name="gone"), "has no `name`"),
    ],
)
def test_what_a_coco_file_says_and_cannot_be_right_names_file_and_place(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"instances_val2017\.json.*{message}"):
        read(coco(tmp_path, content), "val2017")


def test_another_file_of_annotations_can_be_given(tmp_path):
    root = coco(tmp_path, listing())
    other = tmp_path / "mine.json"
    other.write_text(json.dumps(listing([(0, 7, [1, 2, 3, 4], {})])))
    assert objects(read(root, "val2017", other))["a.jpg"] == (Box(1, 1, 2, 4, 6, 0, 12),)
    with pytest.raises(ValueError, match=r"nowhere\.json cannot be read: No such file"):
        read(root, "val2017", tmp_path / "nowhere.json")


def test_a_single_coco_file_belongs_to_images_that_lie_in_no_folder_of_the_split(tmp_path):
    root = coco(tmp_path, listing([(0, 7, [1, 2, 3, 4], {})]), split="default", images="images")
    assert objects(read(root, "val"))["a.jpg"] == (Box(1, 1, 2, 4, 6, 0, 12),)
    (root / "annotations" / "instances_second.json").write_text("{}")
    with pytest.raises(ValueError, match=r"neither annotations/instances_val\.json"):
        read(root, "val")


def test_the_coco_file_of_one_split_is_not_taken_for_another(tmp_path):
    root = coco(tmp_path, listing())
    yolo(root, {"t.txt": "5 0.5 0.5 0.5 0.5\n"}, names=("t.jpg",), inner="train2017")
    assert objects(read(root, "train2017")) == {"t.jpg": (Box(5, 16, 12, 48, 36, 0, 768),)}


def test_with_both_layouts_the_coco_file_counts(tmp_path):
    root = yolo(tmp_path, {"a.txt": "5 0.5 0.5 0.5 0.5\n"})
    assert objects(read(root, "val2017"))["a.jpg"] == (Box(5, 16, 12, 48, 36, 0, 768),)
    coco(root, listing([(0, 7, [1, 2, 3, 4], {})]))
    assert objects(read(root, "val2017"))["a.jpg"] == (Box(1, 1, 2, 4, 6, 0, 12),)


@pytest.mark.parametrize("inner", ["val2017", "."])
def test_yolo_lines_are_fractions_of_the_images_own_size(tmp_path, inner):
    text = "0 0.25 0.5 0.5 0.25\n\n79 0.5 0.5 1 1\n"
    result = read(yolo(tmp_path, {"b.txt": text}, inner=inner), "val2017")
    assert objects(result) == {
        "a.jpg": (),  # it has no text file
        "b.jpg": (Box(0, 0, 18, 32, 30, 0, 384), Box(79, 0, 0, 64, 48, 0, 64 * 48)),
    }


def test_yolo_outlines_become_the_box_around_them(tmp_path):
    text = "4 0.25 0.5 0.75 0.25 0.5 1\n4 0 0 1 0 1 1 0 1"
    result = read(yolo(tmp_path, {"a.txt": text}), "val2017")
    assert objects(result)["a.jpg"] == (
        Box(4, 16, 12, 48, 48, 0, 32 * 36),
        Box(4, 0, 0, 64, 48, 0, 3072),
    )


def test_yolo_boxes_that_reach_out_are_clipped_and_those_without_area_are_counted(tmp_path):
    text = "1 0 0 0.5 0.5\n1 0.5 0.5 1.0005 1.0005\n1 0.5 0.5 0 0.5\n1 1 1 -0.0005 0\n"
    result = read(yolo(tmp_path, {"a.txt": text}), "val2017")
    assert objects(result)["a.jpg"] == (Box(1, 0, 0, 16, 12, 0, 192), Box(1, 0, 0, 64, 48, 0, 3072))
    assert result.dropped == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 0.5", "expected `class cx cy w h`"),
        ("1 0.5 0.5 0.5 0.5 0.9", "expected `class cx cy w h`"),  # a score at the end
        ("1 0.5 0.5 0.5 0.5 0.9 0.9 0.9", "expected `class cx cy w h`"),
        ("cat 0.5 0.5 0.5 0.5", "expected `class cx cy w h`"),
        ("1,0.5,0.5,0.5,0.5", "expected `class cx cy w h`"),
        ("80 0.5 0.5 0.5 0.5", r"class 80, which is not one of 0\.\.79"),
        ("-1 0.5 0.5 0.5 0.5", r"class -1, which is not one of 0\.\.79"),
        ("1.5 0.5 0.5 0.5 0.5", r"class 1\.5, which is not one of 0\.\.79"),
        ("nan 0.5 0.5 0.5 0.5", "class nan, which is not"),
        ("1 320 240 64 48", "pixels"),
        ("1 0.5 0.5 1.01 0.5", r"must lie in 0\.\.1"),
        ("1 0.5 -0.01 0.5 0.5", r"must lie in 0\.\.1"),
        ("1 0.5 0.5 0.5 nan", r"must lie in 0\.\.1"),
        ("1 0.5 0.5 0.6 0.5 0.5 1.2", r"must lie in 0\.\.1"),
    ],
)
def test_a_yolo_line_that_cannot_be_right_is_named(tmp_path, line, message):
    root = yolo(tmp_path, {"a.txt": f"0 0.5 0.5 0.5 0.5\n\n{line}\n"})
    with pytest.raises(ValueError, match=rf"labels/val2017/a\.txt line 3 .*{message}"):
        read(root, "val2017")


def test_other_names_make_other_classes_of_a_yolo_folder(tmp_path):
    root = yolo(tmp_path, {"a.txt": "1 0.5 0.5 0.5 0.5\n"})
    assert read(root, "val2017", names=("cat", "dog")).names == ("cat", "dog")
    with pytest.raises(ValueError, match=r"class 1, which is not one of 0\.\.0"):
        read(root, "val2017", names=("cat",))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe0\x00", "is UTF-16"), (b"\x81\x00", r"is not UTF-8 \(byte 0\)")],
)
def test_labels_of_another_encoding_say_so(tmp_path, content, message):
    root = yolo(tmp_path, {})
    (root / "labels" / "val2017" / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.txt {message}: save it as UTF-8"):
        read(root, "val2017")


@pytest.mark.parametrize("layout", ["coco", "yolo"])
def test_grey_and_cmyk_photographs_become_three_channels(tmp_path, layout):
    names = ("CMYK.jpg", "L.jpg", "RGB.jpg")
    if layout == "coco":
        coco(tmp_path, listing(names=names), names=names)
    else:
        yolo(tmp_path, {f"{Path(n).stem}.txt": "0 0.5 0.5 1 1\n" for n in names}, names=names)
    for name in names:
        picture(tmp_path / "images" / "val2017" / name, mode=Path(name).stem)
    samples = read(tmp_path, "val2017").samples
    pictures = {name: samples.decode(samples.blob(name)) for name in samples.ids}
    for image in pictures.values():
        assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
        assert abs(image.getpixel((30, 24))[0] - pictures["RGB.jpg"].getpixel((30, 24))[0]) < 8
    if layout == "yolo":
        assert set(samples.labels) == {(Box(0, 0, 0, 64, 48, 0, 3072),)}


def test_an_unreadable_image_is_left_to_the_check_of_the_images(tmp_path):
    root = yolo(tmp_path, {"a.txt": "0 0.5 0.5 1 1\n", "b.txt": "0 0.5 0.5 1 1\n"})
    (root / "images" / "val2017" / "a.jpg").write_bytes(b"<html>404</html>")
    result = read(root, "val2017")
    assert objects(result) == {"a.jpg": (), "b.jpg": (Box(0, 0, 0, 64, 48, 0, 3072),)}
    assert list(result.samples.bad()) == ["a.jpg"]


def test_labels_are_part_of_what_identifies_the_images(tmp_path):
    one = read(yolo(tmp_path / "1", {"a.txt": "0 0.5 0.5 1 1\n"}), "val2017").samples
    same = read(yolo(tmp_path / "2", {"a.txt": "0 0.5 0.5 1 1\n"}), "val2017").samples
    other = read(yolo(tmp_path / "3", {"a.txt": "1 0.5 0.5 1 1\n"}), "val2017").samples
    assert one.key == same.key != other.key


def test_files_that_are_no_images_are_left_alone(tmp_path):
    root = yolo(tmp_path, {})
    (root / "images" / "val2017" / ".hidden.jpg").write_bytes(b"x")
    (root / "images" / "val2017" / "notes.txt").write_bytes(b"x")
    assert read(root, "val2017").samples.ids == ("a.jpg", "b.jpg")


def test_folders_without_images_or_boxes_say_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        read(tmp_path / "nowhere", "val2017")
    picture(tmp_path / "images" / "val2017" / "a.jpg")
    expected = (
        r"neither annotations/instances_val2017\.json \(COCO\) nor images/val2017/ with "
        r"labels/val2017/ \(YOLO\)"
    )
    with pytest.raises(ValueError, match=expected):
        read(tmp_path, "val2017")
    (tmp_path / "empty" / "images").mkdir(parents=True)
    (tmp_path / "empty" / "labels").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        read(tmp_path / "empty", "val2017")


def test_a_folder_without_names_says_what_to_give(tmp_path):
    root = yolo(tmp_path, {"a.txt": "1 0.5 0.5 0.5 0.5\n"})
    with pytest.raises(ValueError, match=r"no names: add a data\.yaml .*data\.names=\[FIRST"):
        read_folder(root, "val2017")
    assert read_folder(root, "val2017", names=("cat", "dog")).names == ("cat", "dog")


def test_cocos_own_images_have_cocos_names(tmp_path):
    root = yolo(tmp_path, {"000000000139.txt": "62 0.5 0.5 1 1\n"}, ("000000000139.jpg",))
    assert read_folder(root, "val2017").names[62] == "tv"


def test_a_repeated_line_is_one_object_as_in_ultralytics(tmp_path):
    text = "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n\n0\t0.5\t0.50\t0.2\t0.2\n1 0.5 0.5 0.2 0.2\n"
    boxes = objects(read(yolo(tmp_path, {"a.txt": text}), "val2017"))["a.jpg"]
    assert [box.class_index for box in boxes] == [0, 1]


def test_a_byte_order_mark_is_no_part_of_a_label(tmp_path):
    root = yolo(tmp_path, {"a.txt": "\ufeff1 0.5 0.5 1 1\r\n"})
    assert objects(read(root, "val2017"))["a.jpg"] == (Box(1, 0, 0, 64, 48, 0, 3072),)


def turned(path: Path, orientation: int) -> None:
    """A photograph as phones store it: 80 x 60 pixels and a note on how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((80, 60)).convert("RGB").save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_yolo_boxes_are_of_the_upright_image_as_in_ultralytics(tmp_path, orientation):
    from ultralytics.utils.patches import imread

    root = yolo(tmp_path, {"a.txt": "0 0.25 0.125 0.3 0.2\n"}, names=("a.jpg",))
    image = root / "images" / "val2017" / "a.jpg"
    turned(image, orientation)
    samples = read(root, "val2017").samples
    decoded = np.asarray(samples.decode(samples.blob("a.jpg")))
    theirs = imread(str(image))[..., ::-1]
    assert decoded.shape == theirs.shape
    assert np.abs(decoded.astype(int) - theirs).max() <= 2, "two JPEG decoders"
    if orientation in (6, 8):
        (box,) = samples.labels[0]
        assert box[1:5] == pytest.approx((6, 2, 24, 18))


@pytest.mark.parametrize("upright", [True, False])
def test_the_sizes_in_a_coco_file_say_whether_its_images_are_turned(tmp_path, upright):
    content = listing([(0, 7, [1, 2, 3, 4], {})], names=("a.jpg",))
    content["images"][0] |= {"width": 60, "height": 80} if upright else {"width": 80, "height": 60}
    root = coco(tmp_path, content, names=())
    turned(root / "images" / "val2017" / "a.jpg", 6)
    samples = read(root, "val2017").samples
    assert samples.decode(samples.blob("a.jpg")).size == ((60, 80) if upright else (80, 60))
    assert samples.labels == ((Box(1, 1, 2, 4, 6, 0, 12),),)


def test_a_coco_file_that_says_both_names_the_two_images(tmp_path):
    content = listing()
    content["images"][0] |= {"width": 60, "height": 80}
    content["images"][1] |= {"width": 80, "height": 60}
    root = coco(tmp_path, content, names=())
    for name in ("a.jpg", "b.jpg"):
        turned(root / "images" / "val2017" / name, 6)
    with pytest.raises(ValueError, match=r"a\.jpg as it is turned .*b\.jpg as it is stored"):
        read(root, "val2017")


def test_a_coco_file_of_other_sizes_names_both(tmp_path):
    content = listing([(0, 7, [64, 48, 160, 120], {})], names=("a.jpg",))
    content["images"][0] |= {"width": 640, "height": 480}
    with pytest.raises(ValueError, match=r"a\.jpg is 640 x 480 pixels, but the file has 64 x 48"):
        read(coco(tmp_path, content, names=("a.jpg",)), "val2017")


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/secret.png"])
def test_a_coco_file_reads_nothing_outside_its_folder(tmp_path, name):
    picture(tmp_path / "secret.png")
    root = coco(tmp_path / "set", listing(names=(name,)), names=("a.jpg",))
    with pytest.raises(ValueError, match=r"instances_val2017\.json image 10 names .* outside"):
        read(root, "val2017")


@pytest.mark.parametrize(
    ("listed", "stored"),
    [("sub\\a.png", "sub/a.png"), ("\u00e9.png", "e\u0301.png"), ("e\u0301.png", "\u00e9.png")],
)
def test_names_with_other_slashes_or_in_another_unicode_form_are_found(tmp_path, listed, stored):
    root = coco(tmp_path, listing([(0, 7, [1, 2, 3, 4], {})], names=(listed,)), names=(stored,))
    samples = read(root, "val2017").samples
    assert samples.ids == (stored,) and len(samples.labels[0]) == 1
    samples.decode(samples.blob(stored))


def test_a_link_to_nowhere_in_a_coco_file_is_left_to_the_check_of_the_images(tmp_path):
    root = coco(tmp_path, listing(), names=("b.jpg",))
    (root / "images" / "val2017" / "a.jpg").symlink_to("/nowhere/a.jpg")
    assert list(read(root, "val2017").samples.bad()) == ["a.jpg"]


@pytest.mark.parametrize("order", [COCO_NAMES, sorted(COCO_NAMES)], ids=["COCO's", "alphabetical"])
def test_labels_are_the_same_in_whatever_order_a_coco_file_lists_its_classes(tmp_path, order):
    content = listing([(0, order.index("zebra"), [1, 2, 3, 4], {})], ids=range(80))
    for category, name in zip(content["categories"], order, strict=True):
        category["name"] = name
    data = Coco(str(coco(tmp_path, content)), None, 1, 0, False, None, 0.001, 0.7, 5)
    data.network_names = COCO_NAMES
    _, evaluation = data.pools()
    assert [box.class_index for boxes in evaluation.labels for box in boxes] == [22]
    assert tuple(data.names) == COCO_NAMES


def test_given_names_replace_those_of_a_coco_file(tmp_path):
    root = coco(tmp_path, listing([(0, 90, [1, 2, 3, 4], {})]))
    assert read(root, "val2017", names=("x", "y", "z")).names == ("x", "y", "z")
    with pytest.raises(ValueError, match=r"data\.names has 2 names, but .* has 3 categories"):
        read(root, "val2017", names=("x", "y"))
