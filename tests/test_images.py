"""Tests reading photographs of any kind, the evaluation transform, and listing folders."""

import numpy as np
import pytest
from PIL import Image

from keras_mobileone import evaluation_crop, load_image
from keras_mobileone.data.folders import ClassFolders
from keras_mobileone.data.images import (
    find_images,
    left_out_sentence,
    list_images,
    load_crops,
)


@pytest.fixture
def picture():
    """Returns a function for a smooth RGB image, which JPEG preserves."""

    def draw(width=40, height=30):
        x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        channels = np.stack([255 * x, 255 * y, 255 * (1 - x * y)], axis=-1)
        return Image.fromarray(channels.astype(np.uint8))

    return draw


def assert_similar(found, expected, tolerance):
    found, expected = (np.asarray(image, np.float64) for image in (found, expected))
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < tolerance


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp", ".bmp"])
def test_formats(suffix, picture, tmp_path):
    path = tmp_path / f"picture{suffix}"
    picture().save(path, quality=95) if suffix != ".bmp" else picture().save(path)
    found = load_image(path)
    assert found.mode == "RGB"
    assert_similar(found, picture(), 4)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1", "LA", "I;16"])
def test_modes_become_rgb(mode, picture, tmp_path):
    path = tmp_path / ("picture.jpg" if mode in ("L", "CMYK") else "picture.png")
    if mode == "I;16":
        picture().convert("I;16").save(path)
    else:
        picture().convert(mode).save(path)
    with Image.open(path) as stored:
        assert stored.mode == mode
    found = load_image(path)
    assert (found.mode, found.size) == ("RGB", (40, 30))
    if mode in ("CMYK", "RGBA"):
        assert_similar(found, picture(), 5)
    if mode == "L":
        assert_similar(found, picture().convert("L").convert("RGB"), 5)


def test_a_png_under_a_jpeg_name(picture, tmp_path):
    path = tmp_path / "n02105855_2933.JPEG"
    picture().save(path, format="PNG")
    assert_similar(load_image(path), picture(), 1e-9)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_truncated_image_is_named(suffix, kept, picture, tmp_path):
    path = tmp_path / f"cut{suffix}"
    noisy = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    Image.fromarray(noisy).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=f"whole image file.*cut{suffix}") as raised:
        load_image(path)
    assert len(str(raised.value).splitlines()) == 1


def test_what_is_no_image_is_named(tmp_path):
    path = tmp_path / "page.jpg"
    path.write_text("<html>Not found</html>")
    with pytest.raises(ValueError, match=r"page\.jpg"):
        load_image(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        load_image(tmp_path / "nowhere.jpg")


# The evaluation transform.


@pytest.mark.parametrize("crop_fraction", [0.875, 0.9, 1.0])
@pytest.mark.parametrize(
    ("width", "height"),
    [(500, 375), (375, 500), (333, 500), (501, 334), (256, 256), (100, 37), (224, 225)],
)
def test_resize_and_crop_written_out(width, height, crop_fraction):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    short = round(224 / crop_fraction)  # 256, 249, 224
    if width < height:
        resized = image.resize((short, short * height // width), Image.BILINEAR)
    else:
        resized = image.resize((short * width // height, short), Image.BILINEAR)
    # torchvision's CenterCrop rounds halves to even, as Python does.
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    expected = np.asarray(resized)[top : top + 224, left : left + 224]
    found = evaluation_crop(image, 224, crop_fraction)
    assert (found.shape, found.dtype) == ((224, 224, 3), np.uint8)
    np.testing.assert_array_equal(found, expected)


def test_crop_keeps_the_centre():
    pixels = np.zeros((101, 301, 3), np.uint8)
    pixels[45:56, 145:156] = 255
    found = evaluation_crop(Image.fromarray(pixels), 64, 0.875)
    rows, columns = np.nonzero(found[..., 0] > 128)
    assert abs(rows.mean() - 31.5) < 1
    assert abs(columns.mean() - 31.5) < 1


@pytest.mark.parametrize("size", [32, 97])
def test_other_sizes(size, picture):
    assert evaluation_crop(picture(), size).shape == (size, size, 3)


# Listing.


@pytest.fixture
def folders(tmp_path, picture):
    """Returns two class folders with three images, and a file that is not an image."""
    for name in ("n01440764/b.JPEG", "n01440764/a.jpg", "n15075141/c.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        picture().save(path)
    (tmp_path / "n01440764" / "notes.txt").write_text("no image")
    return tmp_path


def test_images_are_listed_in_order(folders):
    names = [str(path.relative_to(folders)) for path in list_images(folders)]
    assert names == ["n01440764/a.jpg", "n01440764/b.JPEG", "n15075141/c.png"]
    assert list_images(str(folders)) == list_images(folders)


def test_labels_come_from_the_folders(folders):
    source = ClassFolders.of_outputs(folders, 1000)
    names = [path.name for path in source.paths]
    assert names == ["a.jpg", "b.JPEG", "c.png"]
    assert source.labels.tolist() == [0, 0, 999]
    assert ClassFolders.of_outputs(folders, 2).labels.tolist() == [0, 0, 1]
    backwards = ClassFolders.of_outputs(folders, 2, ["n15075141", "n01440764"])
    assert backwards.labels.tolist() == [1, 1, 0]


def test_links_are_followed_and_hidden_files_skipped(folders, picture, tmp_path_factory):
    """There are links to class folders and to a file, and links to a parent directory."""
    other = tmp_path_factory.mktemp("other")
    (folders / "n15075141").rename(other / "n15075141")
    (folders / "n15075141").symlink_to(other / "n15075141")
    (folders / "n01440764" / "d.jpg").symlink_to(other / "n15075141" / "c.png")
    (folders / "n01440764" / "up").symlink_to(folders)
    (other / "n15075141" / "self").symlink_to(other / "n15075141")
    hidden = ("n01440764/._a.jpg", "n01440764/.ipynb_checkpoints/a.jpg", "__MACOSX/a.jpg")
    for name in (*hidden, ".thumbnails/a.jpg", "n01440764/x.gif", "n01440764/y.JFIF"):
        (folders / name).parent.mkdir(exist_ok=True)
        picture().save(folders / name, "PNG")
    names = [str(path.relative_to(folders)) for path in list_images(folders)]
    wanted = ["n01440764/a.jpg", "n01440764/b.JPEG", "n01440764/d.jpg", "n15075141/c.png"]
    assert names == wanted
    _, left_out = find_images(folders)
    assert left_out == {"hidden": 1, ".gif": 1, ".jfif": 1, ".txt": 1}
    assert left_out_sentence(left_out) == "Files left out: 1 .gif, 1 .jfif, 1 .txt, 1 hidden."
    assert left_out_sentence({}) == ""
    # Class folders are read by the same function.
    source = ClassFolders(folders)
    assert source.files == wanted
    assert source.labels.tolist() == [0, 0, 0, 1]
    assert source.left_out == left_out


def test_a_directory_without_images_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="Received: none"):
        list_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list_images(tmp_path / "nowhere")


def test_a_folder_that_is_no_class_is_named(folders):
    (folders / "n01440764").rename(folders / "tench")
    with pytest.raises(ValueError, match=r"WordNet id\. Received: 2 in .*, among them tench"):
        ClassFolders.of_outputs(folders, 1000)


def test_crops_come_in_the_order_asked_for(tmp_path):
    paths = []
    for value in range(100):  # more images than are decoded ahead
        paths.append(tmp_path / f"{value}.png")
        Image.new("RGB", (9, 9), (value, 0, 0)).save(paths[-1])
    crops = list(load_crops(paths, (8, 8), 1.0))
    assert [int(crop[0, 0, 0]) for crop in crops] == list(range(100))


def test_a_damaged_image_among_others_is_named(folders):
    (folders / "n01440764" / "b.JPEG").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"b\.JPEG"):
        list(load_crops(list_images(folders), (8, 8), 1.0))


def test_crops_are_squares(folders):
    with pytest.raises(ValueError, match=r"\(8, 9\)"):
        list(load_crops(list_images(folders), (8, 9), 1.0))
