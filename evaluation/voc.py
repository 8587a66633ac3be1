"""Pascal VOC: Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 111(1), 2015."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.decoding import decode_file
from evaluation.image_files import SUFFIXES, composed, images_below, size_of, text_lines
from evaluation.samples import Files, Samples, part
from evaluation.segmentation import SegmentationData

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant"),
    *("sheep", "sofa", "train", "tv/monitor"),
)
IMAGES, LISTS = "JPEGImages", Path("ImageSets", "Segmentation")

# Usual names of the subfolders of the data set.
EVALUATION_FOLDERS = ("voc_val200", "VOCdevkit/VOC2012", "VOC2012")
CALIBRATION_FOLDERS = ("voc_calib64",)


def colour(index: int) -> tuple[int, int, int]:
    """VOC's colour of a class: its lowest three bits are the top bits of R, G and B, and so on.

    Examples:
        >>> colour(15)
        (192, 128, 128)
    """
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (index >> 3 * place + channel & 1) << 7 - place
    return channels[0], channels[1], channels[2]


class Voc(SegmentationData):
    """Photographs in `JPEGImages/`, masks of the same name in `SegmentationClass*/*.png`.

    `root` is such a folder or contains one under a usual name (EVALUATION_FOLDERS). Calibration
    images need no masks. They come from `calibration_root` (null: from `root`): its subfolder
    `voc_calib64`; else, in a folder like `root`, the images in its `train` list, or all of them if
    it has no list; else all images in the folder.

    Attributes:
        mask_folder: the folder of masks, relative to the root; null: the only one there.
        split: evaluate on the images listed in `ImageSets/Segmentation/<split>.txt`; null: on all
            images with a mask.
    """

    names = NAMES
    palette = tuple(colour(i) for i in range(len(NAMES)))

    def __init__(
        self,
        root: str | None,
        calibration_root: str | None,
        batch_size: int,
        workers: int,
        skip_bad: bool,
        images: int | None,
        report_classes: Sequence[int] | None,
        masks: str | None,
        split: str | None,
    ) -> None:
        super().__init__(
            root, calibration_root, batch_size, workers, skip_bad, images, report_classes
        )
        self.mask_folder, self.split = masks, split

    def pools(self) -> tuple[Samples, Samples]:
        if not self.root:
            raise ValueError(
                "data.root is not set: point it to the folder with JPEGImages and the masks, "
                "data.root=/path/to/VOC2012 (or set the environment variable OBLIQ_DATA)"
            )
        root = Path(self.root).expanduser()
        folder = part(root, EVALUATION_FOLDERS)
        self.mask_files = Files(folder)
        evaluation = masked(folder, _mask_folder(folder, self.mask_folder), self.split)
        calibration = Path(self.calibration_root or root).expanduser()
        return unmasked(part(calibration, CALIBRATION_FOLDERS + EVALUATION_FOLDERS)), evaluation


def masked(folder: Path, masks: str, split: str | None) -> Samples:
    """Index photographs with their masks, see `Voc`; no file is opened.

    Raises:
        ValueError: a listed image or its mask is missing, or no image has a mask.
    """
    photos = _scan(folder / IMAGES)
    labels = _scan(folder / masks, (".png",))
    if split is None:
        stems = sorted(photos.keys() & labels.keys())
        if not stems:
            raise ValueError(
                f"{folder}: none of the {len(photos)} images in {IMAGES} has a mask of the same "
                f"name among the {len(labels)} .png files in {masks}"
            )
    else:
        stems = _listed(folder, split)
        _all_there(stems, photos, folder, split, IMAGES)
        _all_there(stems, labels, folder, split, masks)
    chosen = {stem: f"{masks}/{_chosen(labels, stem, folder / masks)}" for stem in stems}
    return _samples(folder, f"{IMAGES}/", photos, chosen)


def unmasked(folder: Path) -> Samples:
    """Index calibration photographs, see `Voc`.

    Raises:
        ValueError: the folder does not exist, has no image, or a listed image is missing.
    """
    inside = (folder / IMAGES).is_dir()
    photos = _scan(folder / IMAGES if inside else folder)
    stems = sorted(photos)
    if (folder / LISTS / "train.txt").is_file():
        stems = _listed(folder, "train")
        _all_there(stems, photos, folder, "train", IMAGES)
    return _samples(folder, f"{IMAGES}/" if inside else "", photos, dict.fromkeys(stems, ""))


def _samples(
    folder: Path, prefix: str, photos: Mapping[str, Sequence[str]], labels: Mapping[str, str]
) -> Samples:
    ids = tuple(prefix + _chosen(photos, stem, folder / prefix) for stem in labels)
    return Samples(
        ids=ids,
        labels=tuple(labels.values()),
        blob=Files(folder),
        decode=decode_file,
        sizes=tuple(size_of(folder / name) for name in ids),
    )


def _scan(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, list[str]]:
    """{name without suffix, in Unicode's form NFC: names} of the image files in a folder."""
    if not folder.is_dir():
        hint = f": data.root needs {IMAGES} and masks" if folder.name == IMAGES else ""
        raise ValueError(f"{folder} is not a folder{hint}. Use one with images")
    found: dict[str, list[str]] = {}
    for name in sorted(images_below(folder, deep=False, suffixes=suffixes)):
        found.setdefault(composed(Path(name).stem), []).append(name)
    if not found:
        raise ValueError(f"{folder} holds no images ({' '.join(suffixes)})")
    return found


def _chosen(files: Mapping[str, Sequence[str]], stem: str, folder: Path) -> str:
    """The one file of this name without suffix."""
    if len(files[stem]) > 1:
        raise ValueError(
            f"{folder} holds {' and '.join(files[stem])}, whose masks would be of the same name: "
            "remove one of them"
        )
    return files[stem][0]


def _mask_folder(folder: Path, chosen: str | None) -> str:
    """The name of the folder of masks.

    Raises:
        ValueError: the chosen folder does not exist, or none was chosen and there are none or
            several.
    """
    there = sorted(p.name for p in folder.glob("SegmentationClass*") if p.is_dir())
    if chosen is not None:
        if not (folder / chosen).is_dir():
            hint = f"choose one of {', '.join(there)}" if there else "it has none at all"
            raise ValueError(f"data.masks={chosen}: {folder} has no such folder of masks: {hint}")
        return chosen
    if not there:
        raise ValueError(
            f"{folder} has no folder SegmentationClass* of masks: point data.root to a folder with "
            f"{IMAGES} and SegmentationClass, or set data.masks to the name of the masks' folder"
        )
    if len(there) > 1:
        raise ValueError(
            f"{folder} has several folders of masks, {', '.join(there)}, whose results differ: "
            f"choose one, data.masks={there[0]}"
        )
    return there[0]


def _listed(folder: Path, split: str) -> list[str]:
    """Image names in a list (its first column), without folder and suffix."""
    path = folder / LISTS / f"{split}.txt"
    if not path.is_file():
        there = sorted(p.stem for p in (folder / LISTS).glob("*.txt"))
        raise ValueError(
            f"data.split={split}: the list {path} does not exist. Available: "
            f"{', '.join(there) or 'none'}. Use null for all images with a mask"
        )
    names = [Path(line.split()[0]).name for line in text_lines(path) if line.strip()]
    stems = list(dict.fromkeys(composed(_without_suffix(name)) for name in names))
    if not stems:
        raise ValueError(f"{path} lists no images")
    return stems


def _without_suffix(name: str) -> str:
    """A listed name may have dots, and may have the suffix of an image, which goes."""
    return name[: -len(Path(name).suffix)] if name.lower().endswith(SUFFIXES) else name


def _all_there(
    stems: Sequence[str], files: Mapping[str, Sequence[str]], folder: Path, split: str, where: str
) -> None:
    absent = [stem for stem in stems if stem not in files]
    if absent:
        raise ValueError(
            f"{folder / LISTS / split}.txt lists {len(absent)} images that are not in "
            f"{folder / where}: {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}. "
            "Add them, or remove them from the list"
        )
