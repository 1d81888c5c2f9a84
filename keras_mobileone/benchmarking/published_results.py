"""Published accuracy and latency of the MobileOne variants on ImageNet.

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
