"""Tests that variants are frozen data that determine the blocks of a network."""

from dataclasses import FrozenInstanceError, replace

import pytest

from keras_mobileone import VARIANTS, MobileOne, Variant, get_variant, list_models
from keras_mobileone.models.variant_complexity import variant_complexity
from keras_mobileone.variants import UNOFFICIAL_VARIANTS

# Channels of the stem and the four stages, from table 2 of the paper and the authors' mobileone.py.
CHANNELS = {
    "s0": (48, 48, 128, 256, 1024),
    "s1": (64, 96, 192, 512, 1280),
    "s2": (64, 96, 256, 640, 2048),
    "s3": (64, 128, 320, 768, 2048),
    "s4": (64, 192, 448, 896, 2048),
}


def test_the_family_has_five_members():
    assert list(VARIANTS) == list(CHANNELS)


@pytest.mark.parametrize("name", VARIANTS)
def test_channels(name):
    variant = VARIANTS[name]
    assert (variant.stem_filters, *variant.stage_filters) == CHANNELS[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_stem_is_the_first_block(name):
    stem = next(VARIANTS[name].blocks())
    assert (stem.name, stem.stage, stem.filters) == ("stem", 0, CHANNELS[name][0])
    assert (stem.kernel_size, stem.strides, stem.depthwise) == (3, 2, False)
    assert (stem.num_conv_branches, stem.se_ratio) == (1, 0)


@pytest.mark.parametrize("name", VARIANTS)
def test_blocks_come_in_pairs_of_depthwise_and_pointwise(name):
    blocks = list(VARIANTS[name].blocks())[1:]
    assert [sum(b.stage == s for b in blocks) for s in (1, 2, 3, 4)] == [4, 16, 20, 2]
    channels = CHANNELS[name][0]
    for depthwise, pointwise in zip(blocks[::2], blocks[1::2], strict=True):
        assert (depthwise.depthwise, depthwise.kernel_size) == (True, 3)
        assert (pointwise.depthwise, pointwise.kernel_size, pointwise.strides) == (False, 1, 1)
        assert depthwise.strides == (2 if depthwise.position == 0 else 1)
        assert depthwise.filters == channels
        assert pointwise.position == depthwise.position + 1
        channels = pointwise.filters
        assert channels == CHANNELS[name][pointwise.stage]


@pytest.mark.parametrize("name", VARIANTS)
def test_only_s0_has_more_than_one_branch(name):
    k = {block.num_conv_branches for block in VARIANTS[name].blocks() if block.stage}
    assert k == {4 if name == "s0" else 1}


@pytest.mark.parametrize("name", VARIANTS)
def test_only_s4_has_squeeze_and_excitation(name):
    found = [(b.stage, b.position) for b in VARIANTS[name].blocks() if b.se_ratio]
    last_five_pairs_of_stage_3 = [(3, position) for position in range(10, 20)]
    pair_of_stage_4 = [(4, 0), (4, 1)]
    assert found == (last_five_pairs_of_stage_3 + pair_of_stage_4 if name == "s4" else [])
    assert {b.se_ratio for b in VARIANTS[name].blocks() if b.se_ratio} <= {1 / 16}


@pytest.mark.parametrize("name", VARIANTS)
def test_block_names_are_unique(name):
    names = [block.name for block in VARIANTS[name].blocks()]
    assert len(set(names)) == len(names) == 43


def test_variants_are_frozen():
    with pytest.raises(FrozenInstanceError):
        VARIANTS["s0"].num_conv_branches = 1
    with pytest.raises(FrozenInstanceError):
        next(VARIANTS["s0"].blocks()).strides = 1


def test_variants_are_hashable_even_from_lists():
    from_lists = Variant("mine", widths=[1, 1, 1, 1], depths=[1, 1, 1, 1])
    assert hash(from_lists) == hash(Variant("mine", widths=(1, 1, 1, 1), depths=(1, 1, 1, 1)))


def test_a_variant_of_ones_own():
    variant = Variant(
        "mine", (0.5, 1, 1.5, 2), num_conv_branches=3, se_pairs=(0, 0, 1, 0), depths=(1, 1, 2, 1)
    )
    blocks = list(variant.blocks())
    assert variant.stage_filters == (32, 128, 384, 1024)
    assert variant.stem_filters == 32
    assert [b.name for b in blocks if b.se_ratio] == [
        "stage3_pair2_depthwise",
        "stage3_pair2_pointwise",
    ]
    assert [b.num_conv_branches for b in blocks] == [1] + [3] * 10


def test_replace_checks_too():
    with pytest.raises(ValueError, match="num_conv_branches=0"):
        replace(VARIANTS["s0"], num_conv_branches=0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"widths": (1, 1, 1)}, "widths"),
        ({"widths": (1, 1, 1, 0)}, "widths"),
        ({"widths": (1, 1, 1, -1)}, "widths"),
        ({"widths": (1, 1, 1, 1e-3)}, "widths"),
        ({"depths": (2, 8, 10)}, "depths"),
        ({"depths": (2, 8, 0, 1)}, "depths"),
        ({"base_filters": (64,)}, "base_filters"),
        ({"num_conv_branches": 0}, "num_conv_branches"),
        ({"se_pairs": (0, 0, 5)}, "se_pairs"),
        ({"se_pairs": (0, 0, 11, 0)}, "se_pairs"),
        ({"se_pairs": (0, 0, -1, 0)}, "se_pairs"),
        ({"se_ratio": 0}, "se_ratio"),
        ({"se_ratio": 1.5}, "se_ratio"),
        ({"crop_fraction": 0}, "crop_fraction"),
        ({"crop_fraction": 1.1}, "crop_fraction"),
    ],
)
def test_a_field_out_of_range_is_named_with_its_value(arguments, named):
    (value,) = arguments.values()
    with pytest.raises(ValueError, match=f"`{named}`") as raised:
        Variant(**{"name": "wrong", "widths": (1, 1, 1, 1), **arguments})
    assert f"{named}={value}" in str(raised.value)


@pytest.mark.parametrize("spelling", ["s0", "S0", "mobileone_s0", "MobileOne-S0", "mobileones0"])
def test_variants_are_found_in_any_spelling(spelling):
    assert get_variant(spelling) is VARIANTS["s0"]


@pytest.mark.parametrize("wrong", ["s5", "", "resnet", "mobileone"])
def test_an_unknown_variant_is_answered_with_the_known_ones(wrong):
    with pytest.raises(ValueError, match="s0, s1, s2, s3, s4") as raised:
        get_variant(wrong)
    assert repr(wrong) in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mine", 4, (1, 1, 1, 1)), "`widths` must be a tuple of four numbers"),
        (("mine", (1, 1, 1, 1), (0, 0, 0, 0)), "`num_conv_branches` must be an integer"),
        (("mine", ("1", 1, 1, 1)), "`widths` must be a tuple of four numbers"),
        (("mine", (1, 1, 1, 1), 1, 2), "`se_pairs` must be a tuple of four integers"),
        (((1, 1, 1, 1), 4), "`name` must be a string"),
    ],
)
def test_an_argument_in_the_place_of_another_is_named(arguments, words):
    with pytest.raises(TypeError, match=words) as raised:
        Variant(*arguments)
    assert "Received: " in str(raised.value) and "\n" not in str(raised.value)


# Parameters in millions and multiply-accumulates in millions, as the paper prints them.
PAPER_MICRO = {"micro0": ("0.57", "68"), "micro1": ("0.98", "139"), "micro2": ("1.3", "214")}


@pytest.mark.parametrize("name", UNOFFICIAL_VARIANTS)
def test_micro_variants_have_the_counts_of_the_paper_and_are_marked(name):
    variant = get_variant(name)
    counts = variant_complexity(variant, deploy=True)
    parameters, macs = PAPER_MICRO[name]
    decimals = len(parameters.split(".")[1])
    assert f"{counts.trainable / 1e6:.{decimals}f}" == parameters
    assert f"{counts.macs / 1e6:.0f}" == macs
    assert variant.name == f"mobileone_{name}_unofficial"
    assert variant.name in list_models() and variant.name not in list_models(pretrained=True)
    assert get_variant(variant.name) is variant
    with pytest.raises(ValueError, match=r"weights exist for mobileone_s0.*unofficial.*None"):
        MobileOne(name)
