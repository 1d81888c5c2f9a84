"""Tests decoding in the graph against Pillow, and the statistics of the random crop."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from keras_mobileone.data import decoding, images
from keras_mobileone.data.examples import BadImage, inspect_image
from keras_mobileone.data.exif import jpeg_orientation

tf = pytest.importorskip("tensorflow")


def smooth(width=160, height=120):
    """Returns a smooth image, which JPEG preserves, without any symmetry."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = np.stack([255 * x, 255 * y**2, 255 * (1 - x * y)], axis=-1)
    return Image.fromarray(channels.astype(np.uint8))


def encode(image, format="JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **({"quality": 95} if format == "JPEG" else {}), **options)
    return stream.getvalue()


def in_pipeline(function, *values):
    """Returns the result of `function` in tf.data for one element."""
    dataset = tf.data.Dataset.from_tensors(tuple(values))
    dataset = dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE)
    return next(iter(dataset)).numpy()


def difference(found, expected) -> np.ndarray:
    found, expected = (np.asarray(image, np.float64) for image in (found, expected))
    assert found.shape == expected.shape
    return np.abs(found - expected)


@pytest.fixture(scope="module")
def photographs(shared):
    """Returns the bytes of ImageNet photographs, which are JPEG and in part gray."""
    paths = images.spread(images.list_images(shared / "imagenet-sample" / "images"), 40)
    return [path.read_bytes() for path in paths]


# Decoding.


KINDS = [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("BMP", "RGB"), ("WEBP", "RGB")]
KINDS += [("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA")]


@pytest.mark.parametrize("format, mode", KINDS)
def test_kinds_of_files(format, mode):
    options = {"lossless": True} if format == "WEBP" else {}
    encoded = encode(smooth().convert(mode), format, **options)
    with Image.open(io.BytesIO(encoded)) as stored:
        assert stored.mode == mode
        expected = stored.convert("RGB")
    for found in (decoding.decode(encoded), in_pipeline(decoding.decode, encoded)):
        assert found.dtype == np.uint8
        # Pillow and TensorFlow convert CMYK with different rounding.
        assert difference(found, expected).max() <= (2 if mode == "CMYK" else 0)


MODES = ["1", "L", "LA", "I", "I;16", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "F"]
STORED = {
    "JPEG": ("1", "L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "WEBP": ("L", "LA", "P", "PA", "RGB", "RGBA", "1", "I", "I;16", "F", "CMYK", "YCbCr", "HSV"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
}


def in_mode(mode):
    if mode.startswith("I"):  # all 16 bits are used
        levels = np.asarray(smooth().convert("L"), np.uint16) * 257 - 30 * (mode == "I")
        picture = Image.fromarray(levels)
        return picture if mode == "I;16" else picture.convert("I")
    if mode == "PA":
        return smooth().convert("RGBA").convert("PA")
    if mode in ("HSV", "LAB", "F"):
        return smooth().convert(mode) if mode != "LAB" else Image.new("LAB", (160, 120), 100)
    return smooth().convert(mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("format", STORED)
def test_pillow_and_tensorflow_see_the_same_pixels(format, mode, tmp_path):
    """All modes in all formats that store them give equal pixels, or are refused for TFRecords."""
    try:
        encoded = encode(in_mode(mode), format, **({"lossless": True} if format == "WEBP" else {}))
    except (OSError, KeyError, ValueError):
        assert mode not in STORED[format]
        pytest.skip("Pillow can't write it")
    (tmp_path / "x").write_bytes(encoded)
    expected = images.load_image(tmp_path / "x")
    try:
        found = decoding.decode(encoded)
    except tf.errors.InvalidArgumentError:
        assert (format, mode) == ("BMP", "1")
        with pytest.raises(BadImage, match="save it as PNG"):
            inspect_image(encoded)
        return
    with Image.open(io.BytesIO(encoded)) as stored:
        allowed = 2 if stored.mode == "CMYK" else 0
    assert difference(found, expected).max() <= allowed
    assert inspect_image(encoded)["image/width"] == 160
    assert expected.getextrema() != ((0, 0),) * 3


def test_16_bit_gray_is_as_bright_as_8_bit(tmp_path):
    in_mode("I;16").save(tmp_path / "x.png")
    found = np.asarray(images.load_image(tmp_path / "x.png"), float).mean()
    assert found == pytest.approx(np.asarray(smooth().convert("L"), float).mean(), abs=0.5)


def test_an_animated_webp_is_refused_before_training():
    frames = [Image.new("RGB", (9, 7), color) for color in ("red", "blue")]
    encoded = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    with pytest.raises(BadImage, match="save it as PNG"):
        inspect_image(encoded)


@pytest.mark.parametrize("order", ["little", pytest.param("big", marks=pytest.mark.slow)])
@pytest.mark.parametrize("orientation", [None, *range(10)])
def test_exif_orientation(orientation, order, tmp_path):
    """Every function that decodes agrees with Pillow's `exif_transpose`."""
    stored, exif = smooth(), Image.Exif()
    exif.endian = "<" if order == "little" else ">"
    exif[0x010F] = "maker of the camera"
    if orientation is not None:
        exif[0x0112] = orientation
    encoded = encode(stored, exif=exif.tobytes())
    (tmp_path / "x.jpg").write_bytes(encoded)
    with Image.open(io.BytesIO(encoded)) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB")
    assert difference(images.load_image(tmp_path / "x.jpg"), expected).max() == 0
    for found in (decoding.decode(encoded), in_pipeline(decoding.decode, encoded)):
        assert difference(found, expected).max() == 0
    # The window is the whole image, so that only the rotation remains.
    whole = {"seed": (1, 2), "area": (1, 1), "ratio": (0.75, 4 / 3)}
    found = decoding.decode_and_random_crop(encoded, 40, **whole)
    assert difference(found, expected.resize((40, 40), Image.Resampling.BILINEAR)).mean() < 3


def test_orientation_of_damaged_exif():
    """The image is decoded, whatever the Exif block contains."""
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    for cut in range(6, len(block)):
        encoded = encode(smooth(16, 12), exif=block[:cut])
        assert decoding.decode(encoded).shape in ((12, 16, 3), (16, 12, 3))
    far = block[:10] + b"\xff" * 4 + block[14:]
    assert decoding.decode(encode(smooth(16, 12), exif=far)).shape == (12, 16, 3)


def test_first_frame_of_a_gif():
    frames = [Image.new("RGB", (9, 7), color) for color in ("red", "blue")]
    found = decoding.decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert difference(found, frames[0]).max() == 0


def test_photographs_decode_as_with_pillow(photographs):
    for encoded in photographs[::4]:
        expected = Image.open(io.BytesIO(encoded)).convert("RGB")
        assert difference(decoding.decode(encoded), expected).max() == 0


FUNCTIONS = {
    "decode": decoding.decode,
    "training": lambda encoded: decoding.decode_and_random_crop(encoded, 32, (1, 2)),
    "evaluation": lambda encoded: decoding.evaluation_crop(encoded, 32),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("damage", ["cut", "foreign", "empty"])
def test_what_cannot_be_decoded_says_so(name, damage):
    whole = encode(smooth())
    damaged = {"cut": whole[: len(whole) // 4], "foreign": b"<html>", "empty": b""}[damage]
    message = "Invalid JPEG data|Unknown image file format|Input is empty"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        FUNCTIONS[name](damaged)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        in_pipeline(FUNCTIONS[name], damaged)


# The random window.


def windows(height, width, count=4000, **options):
    def draw(index):
        return decoding.random_crop_window(height, width, tf.stack([index, 5]), **options)

    dataset = tf.data.Dataset.range(count).map(draw, num_parallel_calls=2).batch(count)
    return next(iter(dataset)).numpy().astype(np.int64).T


def test_windows_cover_areas_ratios_and_borders():
    top, left, height, width = windows(300, 400)
    area, ratio = height * width / (300 * 400), width / height
    # Sides are integers, so that the bounds hold up to half of about 97 pixels (0.08 of the image).
    assert 0.079 < area.min() < 0.09
    assert area.max() <= 1
    assert 0.74 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.35
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == 300
    assert (left + width).max() == 400
    # The median of log-uniform ratios is 1, and slightly more wide than high windows fit.
    assert 1.0 < np.median(ratio) < 1.1
    assert 0.4 < area.mean() < 0.55
    center = (top + height / 2) / 300, (left + width / 2) / 400
    assert np.allclose(np.mean(center, axis=1), 0.5, atol=0.01)


def test_windows_agree_with_the_algorithm_written_as_a_loop():
    rng = np.random.default_rng(0)

    def draw(height, width):
        for _ in range(10):
            pixels = height * width * rng.uniform(0.08, 1)
            ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round((pixels * ratio) ** 0.5), round((pixels / ratio) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
        raise AssertionError("never for this shape")

    expected = np.array([draw(250, 300) for _ in range(4000)]).T
    found = windows(250, 300)
    for quantile in (0.1, 0.5, 0.9):
        shift = np.quantile(found, quantile, axis=1) - np.quantile(expected, quantile, axis=1)
        assert np.abs(shift).max() < 10


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (10, 300, (0, 143, 10, 13)),  # wider than 4 / 3: 10 · 4 / 3 rounds to 13
        (300, 10, (143, 0, 13, 10)),
        (1, 1, (0, 0, 1, 1)),
    ],
)
def test_central_window_if_none_fits(height, width, expected):
    # In thin or tiny images, none of ten windows fits, because its area is at least half of the
    # image.
    found = windows(height, width, count=50, area=(0.5, 1.0))
    np.testing.assert_array_equal(found.T, [expected] * 50)


@pytest.mark.parametrize("shape", [(2, 3), (1, 50), (7, 2000)])
def test_windows_of_tiny_pictures_stay_inside(shape):
    top, left, height, width = windows(*shape, count=500)
    assert min(height.min(), width.min()) >= 1
    assert min(top.min(), left.min()) >= 0
    assert (top + height).max() <= shape[0]
    assert (left + width).max() <= shape[1]


def test_windows_follow_the_seed():
    draws = [tuple(decoding.random_crop_window(300, 400, (3, i)).numpy()) for i in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    "options", [{"area": (0.0, 1.0)}, {"area": (0.5, 2.0)}, {"area": (0.9, 0.1)}, {"ratio": (2, 1)}]
)
def test_wrong_ranges(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}.*Received"):
        decoding.random_crop_window(10, 10, (1, 2), **options)


# The training crop.


def pillow_crop(encoded, seed, size):
    picture = Image.open(io.BytesIO(encoded)).convert("RGB")
    window = decoding.random_crop_window(picture.height, picture.width, seed).numpy()
    top, left, height, width = (int(side) for side in window)
    box = (left, top, left + width, top + height)
    return picture.crop(box).resize((size, size), Image.Resampling.BILINEAR), window


@pytest.mark.parametrize("size", [224, 128])  # at 128, most windows are decoded at a smaller size
def test_training_crop_is_close_to_pillow(photographs, size):
    mean = []
    for index, encoded in enumerate(photographs):
        if jpeg_orientation(encoded) != 1:
            continue  # `pillow_crop` does not rotate, which `test_exif_orientation` checks
        expected, _ = pillow_crop(encoded, (index, 1), size)
        found = decoding.decode_and_random_crop(encoded, size, (index, 1))
        mean.append(difference(found, expected).mean())
    assert np.mean(mean) < {224: 2.0, 128: 5.0}[size]
    assert np.max(mean) < 20  # of fur or gravel, which Pillow blurs more


def test_enlarged_windows_equal_pillow(photographs):
    checked = 0
    for index, encoded in enumerate(photographs):
        expected, window = pillow_crop(encoded, (index, 1), 224)
        if jpeg_orientation(encoded) == 1 and max(window[2:]) <= 224:
            found = decoding.decode_and_random_crop(encoded, 224, (index, 1))
            # At the border of the window, the chroma of the pixels outside is missing for the
            # interpolation.
            assert difference(found, expected)[4:-4, 4:-4].max() <= 2
            assert difference(found, expected).mean() < 0.5
            checked += 1
    assert checked > 3


@pytest.mark.parametrize("side", [90, 200, 400, 1200])
def test_reduced_decoding_keeps_the_place(side):
    """A displacement would change the mean of an image with a gradient in one direction."""
    encoded = encode(smooth(side, side))
    found = decoding.decode_and_random_crop(encoded, 64, (1, 2), area=(1.0, 1.0), ratio=(1.0, 1.0))
    expected = smooth(side, side).resize((64, 64), Image.Resampling.BILINEAR)
    assert difference(found, expected).mean() < 0.7
    # The mean is signed. A shift by one decoded pixel gives at least 0.7.
    shift = np.asarray(found, np.float64).mean((0, 1)) - np.asarray(expected).mean((0, 1))
    assert np.abs(shift).max() < 0.2


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_training_crop_in_a_pipeline(format):
    encoded = encode(smooth(), format)

    def crop(encoded):
        return decoding.decode_and_random_crop(encoded, 48, tf.constant([3, 4]))

    dataset = tf.data.Dataset.from_tensors(encoded).map(crop, num_parallel_calls=tf.data.AUTOTUNE)
    assert dataset.element_spec == tf.TensorSpec((48, 48, 3), tf.uint8)
    found = next(iter(dataset)).numpy()
    np.testing.assert_array_equal(found, crop(encoded))
    expected, _ = pillow_crop(encoded, (3, 4), 48)
    assert difference(found, expected).mean() < 1.5


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_training_crop_of_other_modes(mode):
    encoded = encode(smooth().convert(mode))
    found = decoding.decode_and_random_crop(encoded, 48, (3, 4))
    expected, _ = pillow_crop(encoded, (3, 4), 48)
    assert difference(found, expected).mean() < 1.5


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 2)])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_crops_of_tiny_pictures(shape, format):
    encoded = encode(Image.new("RGB", shape, (10, 200, 90)), format)
    for found in (
        decoding.decode_and_random_crop(encoded, 16, (1, 2)),
        decoding.evaluation_crop(encoded, 16),
    ):
        assert difference(found, np.broadcast_to((10, 200, 90), (16, 16, 3))).max() <= 2


# The evaluation crop.


@pytest.mark.parametrize(("size", "crop_fraction"), [(224, 0.875), (224, 0.9), (97, 1.0)])
def test_evaluation_crop_is_pillows(photographs, size, crop_fraction):
    worst = 0
    for encoded in photographs[::3]:
        picture = Image.open(io.BytesIO(encoded)).convert("RGB")
        expected = images.evaluation_crop(picture, size, crop_fraction)
        found = decoding.evaluation_crop(encoded, size, crop_fraction)
        worst = max(worst, difference(found, expected).max())
    assert worst <= 2


@pytest.mark.parametrize("crop_fraction", [0.875, 1.0])
@pytest.mark.parametrize(("width", "height"), [(375, 500), (333, 500), (501, 334), (100, 37)])
def test_evaluation_crop_of_noise(width, height, crop_fraction):
    """A shift by one pixel, or a side that is off by one, gives a large difference in noise."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    encoded = encode(Image.fromarray(noise), "PNG")
    expected = images.evaluation_crop(Image.fromarray(noise), 224, crop_fraction)
    for found in (
        decoding.evaluation_crop(encoded, 224, crop_fraction),
        in_pipeline(lambda bytes: decoding.evaluation_crop(bytes, 224, crop_fraction), encoded),
    ):
        assert difference(found, expected).max() <= 2


@pytest.mark.parametrize("crop_fraction", [0.0, 1.1])
def test_wrong_crop_fraction(crop_fraction):
    with pytest.raises(ValueError, match=r"crop_fraction.*Received"):
        decoding.evaluation_crop(b"", 224, crop_fraction)


# The flip.


def test_flip_in_half_of_the_cases():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)

    def flip(index):
        return decoding.random_flip(tf.constant(image), tf.stack([index, 8]))

    dataset = tf.data.Dataset.range(1000).map(flip).batch(1000)
    assert dataset.element_spec.shape[1:] == (2, 3, 3)
    found = next(iter(dataset)).numpy()
    mirrored = (found == image[:, ::-1]).all((1, 2, 3))
    kept = (found == image).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 430 < mirrored.sum() < 570
    np.testing.assert_array_equal(found[7], flip(tf.constant(7, tf.int64)))
