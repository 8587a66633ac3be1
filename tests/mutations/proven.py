"""What is in no key, why no result can change with it, and the test that shows it."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """Why a change is not in a key.

    Attributes:
        text: for the page.
        test: "file::function" of the test that shows it.
    """

    text: str
    test: str


CONTENT = Reason(
    "only chooses or finds images; their content is in the key",
    "tests/pipelines/store/test_mutations.py::test_images_count_by_their_content_wherever_they_lie",
)
LOADING = Reason(
    "the same batches with any number of loader processes",
    "tests/evaluation/test_image_cache.py::test_loader_processes_give_the_same",
)
OUTPUTS = Reason(
    "nothing but the evaluation reads it",
    "tests/pipelines/store/test_mutations.py::test_calibration_never_reads_settings_of_the_evaluation",
)
CHECKED = Reason(
    "calibration has a batch size of its own",
    "tests/pipelines/store/test_mutations.py::test_calibration_never_reads_settings_of_the_evaluation",
)
ROUNDING = Reason(
    "rounding errors only",
    "tests/pipelines/store/test_mutations.py::test_threads_and_devices_move_results_by_rounding_only",
)
SHOWN = Reason(
    "shows progress",
    "tests/pipelines/store/test_mutations.py::test_the_screen_moves_nothing",
)

DATA = {  # settings of data sets, on calibration and evaluation images
    "root": (CONTENT, CONTENT),
    "calibration_root": (CONTENT, CONTENT),
    "images": (CONTENT, CONTENT),
    "skip_bad": (CONTENT, CONTENT),
    "workers": (LOADING, LOADING),
    "batch_size": (CHECKED, None),
    "confidence": (OUTPUTS, None),
    "iou": (OUTPUTS, None),
    "max_detections": (OUTPUTS, None),
    "report_classes": (OUTPUTS, None),
}
MACHINE = {
    "accelerator": ROUNDING,
    "devices": ROUNDING,
    "threads": ROUNDING,
    "screen": SHOWN,
    "ranks": ROUNDING,
}
