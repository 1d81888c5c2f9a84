"""Published accuracy and latency of the MobileOne variants.

None of these figures was measured with this package.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """Published figures of one variant.

    Attributes:
        authors_top1: Top-1 in percent, from the table of github.com/apple/ml-mobileone.
        timm_top1: Top-1 in percent of the authors' weights in timm's evaluation
            (results-imagenet.csv of github.com/huggingface/pytorch-image-models).
        timm_top5: Top-5 in percent, from the same evaluation.
        distilled_top1: Top-1 in percent after the paper's knowledge distillation; None if it was
            not published.
        iphone_ms: Latency in ms with Core ML on an iPhone 12 Pro, measured by the authors.
    """

    authors_top1: float
    timm_top1: float
    timm_top5: float
    distilled_top1: float | None
    iphone_ms: float


PUBLISHED = {
    "mobileone_s0": Published(71.4, 71.398, 89.864, None, 0.79),
    "mobileone_s1": Published(75.9, 75.760, 92.788, 77.4, 0.89),
    "mobileone_s2": Published(77.4, 77.504, 93.664, 79.1, 1.18),
    "mobileone_s3": Published(78.1, 78.002, 93.864, 80.0, 1.53),
    "mobileone_s4": Published(79.4, 79.446, 94.490, 81.4, 1.86),
}

# Robustness, in percent, S0 … S4. ImageNet-C is the mean corruption error (lower is better), the
# others are top-1. "paper": arXiv 2206.04040. "timm": results-imagenet-{a,r,sketch,v2} in
# github.com/huggingface/pytorch-image-models, its evaluation of the authors' weights.
PUBLISHED_ROBUSTNESS = {
    ("imagenet-c", "paper"): (86.4, 80.4, 73.6, 71.6, 68.1),
    ("imagenet-a", "paper"): (2.3, 2.7, 4.8, 7.1, 10.8),
    ("imagenet-a", "timm"): (2.107, 3.040, 4.480, 6.600, 10.787),
    ("imagenet-r", "paper"): (32.9, 36.7, 40.0, 42.1, 41.8),
    ("imagenet-r", "timm"): (32.980, 37.033, 40.287, 42.300, 42.370),
    ("imagenet-sketch", "paper"): (19.3, 22.6, 26.4, 28.5, 29.2),
    ("imagenet-sketch", "timm"): (19.299, 22.832, 26.418, 28.698, 29.439),
    ("imagenet-v2", "timm"): (58.42, 63.06, 65.38, 66.33, 68.15),
}

# Segmentation and detection, S0 … S4, from the paper (arXiv 2206.04040): mAP of SSDLite at 320
# pixels on MS COCO, and mIoU of DeepLabV3 on Pascal VOC 2012 and on ADE20K, in percent. None: not
# given.
# S4 is without squeeze-and-excitation in segmentation.
PUBLISHED_DENSE: dict[str, tuple[float | None, ...]] = {
    "coco": (None, 25.7, 26.6, 27.3, 29.4),
    "voc": (73.7, 77.3, 77.9, 78.8, 80.1),
    "ade20k": (33.1, 35.1, 35.7, 36.2, 38.2),
}
