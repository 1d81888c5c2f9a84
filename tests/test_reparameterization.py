"""Tests the algebra of folding against convolutions written as loops in float64."""

import numpy as np
import pytest

from keras_mobileone.layers import reparameterization

SIZE = (5, 6)


def convolve(image, kernel, depthwise):
    """Computes a stride-1 convolution of an image (height, width, in) that keeps the size."""
    side = kernel.shape[0]
    margin = side // 2
    padded = np.pad(image, [(margin, margin), (margin, margin), (0, 0)])
    output = np.zeros((*image.shape[:2], kernel.shape[-1]))
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            patch = padded[y : y + side, x : x + side]
            if depthwise:
                output[y, x] = (patch * kernel).sum(axis=(0, 1))
            else:
                output[y, x] = np.einsum("hwi,hwio->o", patch, kernel)
    return output


def normalize(x, norm):
    """Computes batch normalization by its definition."""
    return norm.gamma * (x - norm.mean) / np.sqrt(norm.variance + norm.epsilon) + norm.beta


def random_norm(rng, channels, epsilon=1e-5):
    return reparameterization.BatchNormParameters(
        gamma=rng.normal(size=channels),  # half of the values are negative
        beta=rng.normal(size=channels),
        mean=rng.normal(size=channels),
        variance=rng.uniform(0.01, 2, channels),
        epsilon=epsilon,
    )


def random_branch(rng, side, inputs, outputs, depthwise, epsilon=1e-5):
    shape = (side, side, outputs) if depthwise else (side, side, inputs, outputs)
    return reparameterization.Branch(rng.normal(size=shape), random_norm(rng, outputs, epsilon))


def branch_by_branch(image, branches, depthwise):
    return sum(normalize(convolve(image, b.kernel, depthwise), b.norm) for b in branches)


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_one_branch(side, depthwise):
    rng = np.random.default_rng(0)
    branch = random_branch(rng, side, 4, 4, depthwise)
    image = rng.normal(size=(*SIZE, 4))
    kernel, bias = reparameterization.fold_branch(branch)
    expected = branch_by_branch(image, [branch], depthwise)
    np.testing.assert_allclose(convolve(image, kernel, depthwise) + bias, expected, atol=1e-12)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 0.1])
def test_epsilon_is_the_branchs_own(epsilon):
    rng = np.random.default_rng(1)
    branch = random_branch(rng, 3, 2, 3, False, epsilon)
    image = rng.normal(size=(*SIZE, 2))
    kernel, bias = reparameterization.fold_branch(branch)
    expected = branch_by_branch(image, [branch], False)
    np.testing.assert_allclose(convolve(image, kernel, False) + bias, expected, atol=1e-12)


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
@pytest.mark.parametrize("num_conv_branches", [1, 2, 4])
@pytest.mark.parametrize("side", [1, 3, 5])
def test_convolutions_scale_and_skip_sum_to_one_convolution(side, num_conv_branches, depthwise):
    rng = np.random.default_rng(2)
    convs = [random_branch(rng, side, 4, 4, depthwise) for _ in range(num_conv_branches)]
    scale = random_branch(rng, 1, 4, 4, depthwise)
    skip_norm = random_norm(rng, 4)
    image = rng.normal(size=(*SIZE, 4))
    expected = branch_by_branch(image, [*convs, scale], depthwise) + normalize(image, skip_norm)

    skip = reparameterization.Branch(reparameterization.identity_kernel(4, depthwise), skip_norm)
    kernel, bias = reparameterization.fold([*convs, scale, skip], side)
    assert kernel.shape == convs[0].kernel.shape
    assert bias.shape == (4,)
    np.testing.assert_allclose(convolve(image, kernel, depthwise) + bias, expected, atol=1e-12)


def test_channels_may_change():
    rng = np.random.default_rng(3)
    branches = [random_branch(rng, side, 3, 7, False) for side in (3, 3, 1)]
    image = rng.normal(size=(*SIZE, 3))
    kernel, bias = reparameterization.fold(branches, 3)
    expected = branch_by_branch(image, branches, False)
    np.testing.assert_allclose(convolve(image, kernel, False) + bias, expected, atol=1e-12)


def test_a_smaller_kernel_is_centred():
    norm = reparameterization.BatchNormParameters(
        np.ones(1), np.zeros(1), np.zeros(1), np.ones(1), 0.0
    )
    kernel, _ = reparameterization.fold(
        [reparameterization.Branch(np.full((1, 1, 1), 2.0), norm)], 3
    )
    np.testing.assert_array_equal(kernel[..., 0], [[0, 0, 0], [0, 2, 0], [0, 0, 0]])


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
def test_the_identity_kernel_passes_its_input_through(depthwise):
    image = np.random.default_rng(4).normal(size=(*SIZE, 3))
    kernel = reparameterization.identity_kernel(3, depthwise)
    np.testing.assert_array_equal(convolve(image, kernel, depthwise), image)


def test_float32_parameters_are_folded_in_float64():
    rng = np.random.default_rng(5)
    branch = random_branch(rng, 3, 4, 4, False)
    single = reparameterization.Branch(
        branch.kernel.astype(np.float32),
        branch.norm._replace(**{f: getattr(branch.norm, f).astype(np.float32) for f in FIELDS}),
    )
    double = reparameterization.Branch(
        single.kernel.astype(np.float64),
        single.norm._replace(**{f: getattr(single.norm, f).astype(np.float64) for f in FIELDS}),
    )
    for found, expected in zip(
        reparameterization.fold([single], 3), reparameterization.fold([double], 3), strict=True
    ):
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, expected)


FIELDS = ("gamma", "beta", "mean", "variance")
