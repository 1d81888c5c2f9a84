"""Generated sections on segmentation and detection, for `results_pages.py`."""

import json

import dense_peers
import dense_quantization

from keras_mobileone.benchmarking.published_results import PUBLISHED_DENSE
from keras_mobileone.deployment.report import markdown_table

VARIANTS = ("S0", "S1", "S2", "S3", "S4")
COLUMNS = {"voc": "Pascal VOC, mIoU", "ade20k": "ADE20K, mIoU", "coco": "MS COCO, mAP"}
OF_TASK = {"segment": ("voc", "ade20k"), "detect": ("coco",)}
# Other backbones in the paper's tables, by the data set.
OTHERS = {
    "voc": {"MobileNetV2": 75.7, "MobileViT-S": 79.1},
    "ade20k": {},
    "coco": {"MobileNetV2": 22.1, "MobileNetV3": 22.0, "MNASNet": 23.0, "MobileViT-S": 27.7},
}


def paper_table(*tasks: str) -> str:
    """Returns the paper's accuracies of these tasks, published and not measured here."""
    names = [name for task in tasks for name in OF_TASK[task]]
    others = list(dict.fromkeys(other for name in names for other in OTHERS[name]))
    figures = {name: dict(zip(VARIANTS, PUBLISHED_DENSE[name], strict=True)) for name in names}
    rows = []
    for row in (*VARIANTS, *others):
        values = [(figures[name] | OTHERS[name]).get(row) for name in names]
        title = f"MobileOne-{row}" if row in VARIANTS else row
        rows.append((title, *("–" if value is None else f"{value:.1f}" for value in values)))
    return markdown_table(("published, %", *(COLUMNS[name] for name in names)), rows)


def latency(task: str, result: dict, picture: str) -> str:
    """Returns the latency of one task in a sentence."""
    return dense_peers.sentence(result, task)


def quantized() -> str:
    """Returns the comparison of int8 with random heads, if it is stored."""
    path = dense_quantization.RESULT
    if not path.is_file():
        return "Not measured yet. `python benchmarks/dense_quantization.py` measures it."
    return dense_quantization.markdown(json.loads(path.read_text(encoding="utf-8")))
