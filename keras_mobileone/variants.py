"""The architectures of MobileOne as frozen data.

Widths, branches and squeeze-and-excitation come from table 2 of the paper (arXiv 2206.04040) and
from `mobileone.py` of github.com/apple/ml-mobileone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Real

from keras_mobileone.errors import InputTypeError, InputValueError

STAGE_NAMES = ("stage1", "stage2", "stage3", "stage4")
OUTPUT_STRIDES = (32, 16, 8)  # of the last stage; 32 is that of a classifier

# The fields of a `Variant` that have one entry for each stage, and the types of the fields.
_STAGE_FIELDS = ("widths", "se_pairs", "depths", "base_filters")
_FIELD_TYPES = (
    (("widths",), Real, "a tuple of four numbers, one for each stage"),
    (
        ("se_pairs", "depths", "base_filters"),
        Integral,
        "a tuple of four integers, one for each stage",
    ),
    (("num_conv_branches",), Integral, "an integer"),
    (("se_ratio", "crop_fraction"), Real, "a number"),
)


@dataclass(frozen=True)
class BlockSpec:
    """Arguments and position of a MobileOne block in a network.

    Attributes:
        name: Name of the layer, for example `"stage3_pair2_pointwise"`.
        stage: 0 for the stem, otherwise 1 … 4.
        position: Index in the stage, counted from 0 over depthwise and pointwise blocks.
        filters: Number of output channels.
        kernel_size: Side of the square kernel, in pixels.
        strides: Stride, 1 or 2.
        depthwise: Whether the convolution is depthwise, with one filter for each channel, instead
            of dense.
        num_conv_branches: Number k of equal convolution branches at train time.
        se_ratio: Bottleneck channels of the squeeze-and-excitation divided by `filters`; 0 for no
            squeeze-and-excitation.
        dilation_rate: Distance of the taps of the kernel in pixels.
        skip: Whether the block has a skip branch where its output has the shape of its input.
    """

    name: str
    stage: int
    position: int
    filters: int
    kernel_size: int
    strides: int
    depthwise: bool
    num_conv_branches: int
    se_ratio: float
    dilation_rate: int = 1
    skip: bool = True


@dataclass(frozen=True)
class Variant:
    """The architecture of a MobileOne, either published or user-defined.

    Attributes:
        name: Name of the architecture, used for the model and in reports.
        widths: Multiplier of `base_filters` for each of the four stages.
        num_conv_branches: Number k of convolution branches of each block at train time. The stem
            always has 1.
        se_pairs: For each stage, the number of its last pairs (of a depthwise and a pointwise
            block) that have squeeze-and-excitation in both blocks.
        depths: Number of pairs in each stage.
        base_filters: Number of channels of each stage at width 1.
        se_ratio: Bottleneck channels of the squeeze-and-excitation divided by the channels of the
            block.
        crop_fraction: Side of the center crop divided by the short side of the resized image, for
            evaluation.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If a field is out of range, or a tuple does not have four entries.

    Examples:
        >>> tiny = Variant("tiny", widths=(0.5, 0.5, 0.5, 0.5), depths=(1, 2, 2, 1))
        >>> tiny.stage_filters
        (32, 64, 128, 256)
    """

    name: str
    widths: tuple[float, float, float, float]
    num_conv_branches: int = 1
    se_pairs: tuple[int, int, int, int] = (0, 0, 0, 0)
    depths: tuple[int, int, int, int] = (2, 8, 10, 1)
    base_filters: tuple[int, int, int, int] = (64, 128, 256, 512)
    se_ratio: float = 1 / 16
    crop_fraction: float = 0.9

    def __post_init__(self) -> None:
        self._require_types()
        for field in _STAGE_FIELDS:
            value = tuple(getattr(self, field))
            if len(value) != len(STAGE_NAMES):
                raise InputValueError(
                    f"`{field}` needs one entry for each of the {len(STAGE_NAMES)} stages. "
                    f"Received: {field}={value}."
                )
            object.__setattr__(self, field, value)
        self._require_ranges()

    def _require_types(self) -> None:
        """Raises TypeError if a field has a wrong type, as after a mistake in the order."""
        if not isinstance(self.name, str):
            raise InputTypeError(
                "`name` must be a string; it is the first argument of a Variant. "
                f"Received: name={self.name!r}."
            )
        for fields, kind, expected in _FIELD_TYPES:
            for field in fields:
                value = getattr(self, field)
                if isinstance(value, (tuple, list)) != (field in _STAGE_FIELDS):
                    wrong = True
                else:
                    entries = value if field in _STAGE_FIELDS else (value,)
                    wrong = any(
                        isinstance(entry, bool) or not isinstance(entry, kind) for entry in entries
                    )
                if wrong:
                    raise InputTypeError(
                        f"`{field}` must be {expected}. Received: {field}={value!r}. "
                        "Pass the arguments of a Variant by keyword, so that none is misplaced."
                    )

    def _require_ranges(self) -> None:
        """Raises ValueError if a field is out of range."""
        if min(self.widths) <= 0 or min(self.stage_filters) < 1:
            raise InputValueError(
                "`widths` must be positive and give each stage at least one channel. "
                f"Received: widths={self.widths}."
            )
        if self.num_conv_branches < 1 or min(self.depths) < 1:
            raise InputValueError(
                "`num_conv_branches` and `depths` must be at least 1. Received: "
                f"num_conv_branches={self.num_conv_branches}, depths={self.depths}."
            )
        if any(not 0 <= se <= depth for se, depth in zip(self.se_pairs, self.depths, strict=True)):
            raise InputValueError(
                "`se_pairs` must lie between 0 and `depths` for each stage. "
                f"Received: se_pairs={self.se_pairs}, depths={self.depths}."
            )
        if not 0 < self.se_ratio <= 1 or not 0 < self.crop_fraction <= 1:
            raise InputValueError(
                "`se_ratio` and `crop_fraction` must lie in (0, 1]. Received: "
                f"se_ratio={self.se_ratio}, crop_fraction={self.crop_fraction}."
            )

    @property
    def stage_filters(self) -> tuple[int, ...]:
        """Number of output channels of each of the four stages."""
        return tuple(int(f * w) for f, w in zip(self.base_filters, self.widths, strict=True))

    @property
    def stem_filters(self) -> int:
        """Number of output channels of the stem, at most the channels of stage 1 at width 1."""
        return min(self.base_filters[0], self.stage_filters[0])

    def blocks(self, output_stride: int = 32) -> Iterator[BlockSpec]:
        """Yields the blocks in order, from the stem to the last stage.

        Args:
            output_stride: Stride of the last stage's features: 32, 16 or 8. For 16 and 8, blocks
                that would exceed it have stride 1 and no skip branch, so that they have the weights
                of a classifier, and the blocks behind them are dilated, so that they see the same
                pixels as in a classifier
                ([DeepLabV3](https://arxiv.org/abs/1706.05587), section 3.1).

        Raises:
            ValueError: If `output_stride` is another number.
        """
        if output_stride not in OUTPUT_STRIDES:
            raise InputValueError(
                f"`output_stride` must be one of {', '.join(map(str, OUTPUT_STRIDES))}. "
                f"Received: output_stride={output_stride!r}."
            )
        yield BlockSpec("stem", 0, 0, self.stem_filters, 3, 2, False, 1, 0.0)
        channels, stride, dilation_rate = self.stem_filters, 2, 1
        for stage, (depth, filters, se_pairs) in enumerate(
            zip(self.depths, self.stage_filters, self.se_pairs, strict=True), start=1
        ):
            for pair in range(depth):
                se_ratio = self.se_ratio if pair >= depth - se_pairs else 0.0
                strides = 2 if pair == 0 and stride < output_stride else 1
                name = f"stage{stage}_pair{pair + 1}"
                k = self.num_conv_branches
                yield BlockSpec(
                    f"{name}_depthwise",
                    stage,
                    2 * pair,
                    channels,
                    3,
                    strides,
                    True,
                    k,
                    se_ratio,
                    dilation_rate,
                    skip=pair > 0,
                )
                stride *= strides
                if pair == 0 and strides == 1:
                    dilation_rate *= 2
                yield BlockSpec(
                    f"{name}_pointwise", stage, 2 * pair + 1, filters, 1, 1, False, k, se_ratio
                )
                channels = filters


S0 = Variant("mobileone_s0", (0.75, 1.0, 1.0, 2.0), num_conv_branches=4, crop_fraction=0.875)
S1 = Variant("mobileone_s1", (1.5, 1.5, 2.0, 2.5))
S2 = Variant("mobileone_s2", (1.5, 2.0, 2.5, 4.0))
S3 = Variant("mobileone_s3", (2.0, 2.5, 3.0, 4.0))
S4 = Variant("mobileone_s4", (3.0, 3.5, 3.5, 4.0), se_pairs=(0, 0, 5, 1))

VARIANTS = {"s0": S0, "s1": S1, "s2": S2, "s3": S3, "s4": S4}

# The paper names three smaller networks and gives their parameters and multiply-accumulates, but
# neither their widths nor their depths. These widths and depths are not the authors': they were
# chosen because they give those counts, rounded as in the paper.
MICRO0 = Variant(
    "mobileone_micro0_unofficial", (0.5, 0.5, 0.5, 0.75), num_conv_branches=4, depths=(2, 8, 6, 1)
)
MICRO1 = Variant(
    "mobileone_micro1_unofficial", (0.25, 0.75, 1.0, 0.75), num_conv_branches=4, depths=(2, 6, 7, 1)
)
MICRO2 = Variant(
    "mobileone_micro2_unofficial", (0.75, 1.0, 1.0, 1.0), num_conv_branches=4, depths=(2, 6, 8, 1)
)

UNOFFICIAL_VARIANTS = {"micro0": MICRO0, "micro1": MICRO1, "micro2": MICRO2}
ALL_VARIANTS = VARIANTS | UNOFFICIAL_VARIANTS


def get_variant(name: str) -> Variant:
    """Returns a variant by its name.

    The micro variants are unofficial: the paper does not tell their widths and depths.

    Args:
        name: `"s0"` … `"s4"` or `"micro0"` … `"micro2"`, or the whole name such as
            `"mobileone_s0"`, in upper or lower case.

    Returns:
        The `Variant`.

    Raises:
        ValueError: If no variant has that name.

    Examples:
        >>> get_variant("S0").num_conv_branches
        4
    """
    key = name.lower().removeprefix("mobileone").lstrip("_-").removesuffix("_unofficial")
    if key not in ALL_VARIANTS:
        raise InputValueError(
            f"`variant` must be one of {', '.join(ALL_VARIANTS)}. Received: {name!r}."
        )
    return ALL_VARIANTS[key]
