"""Tests the readers of images with masks or boxes, and their errors about bad annotations."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_mobileone.data.dense.description import DETECT, SEGMENT
from keras_mobileone.data.dense.formats import open_dense, recognized_format
from keras_mobileone.data.dense.mask_codes import IGNORE, MaskCode, read_mask_code
from keras_mobileone.data.dense.shapes import NAMES, write_shapes

COUNT, HEIGHT, WIDTH = 3, 40, 64
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car")
CAMVID += ("pedestrian", "bicyclist", "void")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Returns a data set with masks and VOC's boxes."""
    root = tmp_path_factory.mktemp("dense") / "shapes"
    write_shapes(root, COUNT, HEIGHT, WIDTH)
    return root


@pytest.fixture
def copy(shapes, tmp_path):
    """Returns a copy of the data set, to change."""
    return Path(shutil.copytree(shapes, tmp_path / "copy"))


def as_coco(root, target, split="train"):
    """Writes VOC's boxes as COCO's JSON, beside a copy of the images."""
    data = open_dense(root, DETECT, split)
    shutil.copytree(root / "images" / split, target / f"{split}2017", dirs_exist_ok=True)
    images, annotations = [], []
    for number, image in enumerate(data.images):
        height, width = image.size
        images.append(
            {"id": 10 + number, "file_name": image.path.name, "height": height, "width": width}
        )
        for (x1, y1, x2, y2), label in zip(image.boxes.tolist(), image.labels, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 + number,
                    "category_id": 3 + 2 * int(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": int(len(annotations) == 1),
                }
            )
    categories = [{"id": 5, "name": "square"}, {"id": 3, "name": "circle"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = target / "annotations" / f"instances_{split}2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path, content


def as_yolo(root, target, split="train"):
    """Writes VOC's boxes as YOLO's text files, beside a copy of the images."""
    data = open_dense(root, DETECT, split)
    shutil.copytree(root / "images" / split, target / "images" / split, dirs_exist_ok=True)
    labels = target / "labels" / split
    labels.mkdir(parents=True, exist_ok=True)
    for image in data.images:
        height, width = image.size
        lines = []
        for (x1, y1, x2, y2), label in zip(image.boxes, image.labels, strict=True):
            box = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
            box += (x2 - x1) / width, (y2 - y1) / height
            lines.append(f"{label} " + " ".join(f"{value:.7f}" for value in box))
        (labels / f"{image.path.stem}.txt").write_text("\n".join(lines) + "\n")
    (target / "data.yaml").write_text(
        "path: .\nnames:\n  0: circle\n  1: 'square'  # four\nnc: 2\n"
    )
    return labels


def same_boxes(a, b):
    assert a.classes == b.classes
    assert [i.path.name for i in a.images] == [i.path.name for i in b.images]
    for left, right in zip(a.images, b.images, strict=True):
        assert left.size == right.size == (HEIGHT, WIDTH)
        np.testing.assert_allclose(left.boxes, right.boxes, atol=1e-4)
        np.testing.assert_array_equal(left.labels, right.labels)


def test_masks_and_boxes_of_the_same_shapes_agree(shapes):
    """The visible pixels of a shape that nothing covers fill its box."""
    masks, boxes = (open_dense(shapes, task, "val") for task in (SEGMENT, DETECT))
    assert masks.classes == NAMES
    assert boxes.classes == NAMES[1:]
    assert (masks.format, boxes.format) == ("masks", "voc")
    for image, other in zip(masks.images, boxes.images, strict=True):
        assert image.path == other.path
        mask = masks.code.read(image.mask)
        assert mask.shape == image.size
        for (x1, y1, x2, y2), label in zip(other.boxes.astype(int), other.labels, strict=True):
            found = mask[y1:y2, x1:x2] == label + 1
            for edge in (found[0], found[-1], found[:, 0], found[:, -1]):
                assert edge.any()


@pytest.mark.parametrize("write, name", [(as_coco, "coco"), (as_yolo, "yolo")])
def test_all_formats_have_one_description(write, name, shapes, tmp_path):
    for split in ("train", "val"):
        write(shapes, tmp_path, split)
    assert recognized_format(tmp_path, DETECT) == name
    for split in ("train", "val"):
        same_boxes(open_dense(tmp_path, DETECT, split), open_dense(shapes, DETECT, split))


def test_boxes_of_voc_are_counted_from_one(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    text = (
        "<annotation><object><name>x</name><difficult>1</difficult><bndbox><xmin>1</xmin>"
        "<ymin>1</ymin><xmax>20</xmax><ymax>10</ymax></bndbox></object></annotation>"
    )
    (tmp_path / "a.xml").write_text(text)
    (image,) = open_dense(tmp_path, DETECT, "train").images
    assert image.boxes.tolist() == [[0, 0, 20, 10]]
    assert image.ignored.tolist() == [True]
    assert open_dense(tmp_path, DETECT, "val") is None


def test_crowds_of_coco_are_to_be_ignored(shapes, tmp_path):
    as_coco(shapes, tmp_path)
    data = open_dense(tmp_path, DETECT, "train")
    ignored = np.concatenate([image.ignored for image in data.images])
    assert ignored.tolist() == [False, True] + [False] * (len(ignored) - 2)


def test_an_image_without_a_text_file_of_yolo_has_no_objects(shapes, tmp_path):
    labels = as_yolo(shapes, tmp_path)
    (labels / "train001.txt").unlink()
    data = open_dense(tmp_path, DETECT, "train")
    assert [len(image.labels) > 0 for image in data.images] == [True, False, True]


@pytest.mark.parametrize(
    "images, masks",
    [
        ("train", "trainannot"),
        ("train/images", "train/masks"),
        ("images/train", "labels/train"),
        ("train", "train_labels"),
        ("leftImg8bit/train/city", "gt/train/city"),
    ],
)
@pytest.mark.parametrize("ending", ["", "_L"])
def test_the_usual_layouts_of_masks(images, masks, ending, tmp_path):
    for folder in (images, masks):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (6, 4)).save(tmp_path / images / f"{number}.png")
        Image.new("L", (6, 4), number).save(tmp_path / masks / f"{number}{ending}.png")
    data = open_dense(tmp_path, SEGMENT, "train", labels=("a", "b"))
    assert [image.path.parent for image in data.images] == [tmp_path / images] * 2
    assert [data.code.read(image.mask).max() for image in data.images] == [0, 1]
    assert open_dense(tmp_path, SEGMENT, "val", labels=("a", "b")) is None


def test_a_list_names_the_images_of_a_split(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "SegmentationObject").mkdir()
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (6, 4)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        for folder in ("SegmentationClass", "SegmentationObject"):
            Image.new("P", (6, 4)).save(tmp_path / folder / f"{name}.png")
    for split, names in (("train", "c\na\n"), ("val", "b\n"), ("trainval", "a\nb\nc\n")):
        (tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(names)
    for split, names in (("train", ["a", "c"]), ("val", ["b"])):
        data = open_dense(tmp_path, SEGMENT, split, labels=("background",))
        assert [image.path.stem for image in data.images] == names


# Masks.


@pytest.mark.parametrize(
    "text",
    [
        "# colors\n0 0 0 void\n255 0 0\tred light\n0 0 255 blue\n",
        "void,0,0,0\nred light,255,0,0\nblue,0,0,255\n",
        "# label:color_rgb:parts:actions\nvoid:0,0,0::\nred light:255,0,0::\nblue:0,0,255::\n",
        "name,r,g,b\nvoid, 0, 0, 0\nred light, 255, 0, 0\nblue, 0, 0, 255\n",
    ],
)
def test_colors_in_the_usual_spellings(text, tmp_path):
    path = tmp_path / "colors.txt"
    path.write_text(text)
    code = read_mask_code(path)
    assert code.classes == ("red light", "blue")
    pixels = np.array([[[255, 0, 0], [0, 0, 255], [0, 0, 0]]], np.uint8)
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).quantize(3)):
        image.save(tmp_path / "mask.png")
        assert code.read(tmp_path / "mask.png").tolist() == [[0, 1, IGNORE]]


def test_a_palette_image_holds_indices(tmp_path):
    mask = Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8), "L").convert("P")
    mask.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    mask.save(tmp_path / "mask.png")
    code = MaskCode(("background", "a", "b"))
    assert code.read(tmp_path / "mask.png").tolist() == [[0, 1, 2, IGNORE]]


def test_void_may_stand_anywhere():
    code = MaskCode(("void", "a", "Unlabeled", "b"))
    assert code.classes == ("a", "b")
    indices = np.array([0, 1, 2, 3, 255], np.uint8)
    assert code.of_indices(indices).tolist() == [IGNORE, 0, IGNORE, 1, IGNORE]


# Bad input.


def first(root, pattern):
    return sorted(root.glob(pattern))[0]


def change_text(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def enlarge_mask(root):
    Image.new("L", (WIDTH, HEIGHT + 1)).save(first(root, "masks/train/*"))


def exceed_classes(root):
    Image.new("L", (WIDTH, HEIGHT), 3).save(first(root, "masks/train/*"))


def truncate_mask(root):
    path = first(root, "masks/train/*")
    path.write_bytes(path.read_bytes()[:80])


BAD_MASKS = {
    "mask of another size": enlarge_mask,
    "mask with a class beyond the last": exceed_classes,
    "mask that can't be decoded": truncate_mask,
    "missing image": lambda root: first(root, "images/train/*").unlink(),
    "missing mask": lambda root: first(root, "masks/train/*").unlink(),
    "image that can't be decoded": lambda root: first(root, "images/train/*").write_bytes(b"x"),
}


def set_box(corners):
    def change(root):
        path = first(root, "Annotations/train/*")
        names = ("xmin", "ymin", "xmax", "ymax")
        box = "".join(f"<{n}>{c}</{n}>" for n, c in zip(names, corners, strict=True))
        text = f"<object><name>circle</name><bndbox>{box}</bndbox></object></annotation>"
        change_text(path, "</annotation>", text)

    return change


BAD_BOXES = {
    "box without area": set_box((5, 5, 5, 9)),
    "inverted box": set_box((9, 5, 5, 9)),
    "box outside of the image": set_box((5, 5, WIDTH + 9, 9)),
    "box that is not finite": set_box((5, 5, "nan", 9)),
    "XML that is not an annotation of VOC": set_box((5, 5, "", 9)),
    "annotation of an image of another size": lambda root: change_text(
        first(root, "Annotations/train/*"), f"<width>{WIDTH}", "<width>99"
    ),
    "missing image": lambda root: first(root, "images/train/*").unlink(),
    "missing annotation": lambda root: first(root, "Annotations/train/*").unlink(),
}


@pytest.mark.parametrize(
    "task, kind, spoil",
    [(SEGMENT, *item) for item in BAD_MASKS.items()] + [(DETECT, *i) for i in BAD_BOXES.items()],
)
def test_a_bad_annotation_is_named_or_counted(task, kind, spoil, copy):
    spoil(copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=f"train000.*: {kind}.*--skip-bad"):
        open_dense(copy, task, "train")
    data = open_dense(copy, task, "train", skip_bad=True)
    assert data.left_out == {kind: 1}
    assert f"Left out: 1 × {kind} (" in data.describe()
    assert "train000" in data.problems[0]
    whole_box = "box" in kind
    assert len(data.images) == (COUNT if whole_box else COUNT - 1)
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def test_bad_entries_of_coco(shapes, tmp_path):
    path, content = as_coco(shapes, tmp_path)
    content["images"].append({"id": 99, "file_name": "gone.jpg"})
    content["annotations"] += [
        {"id": 90, "image_id": 10, "category_id": 4, "bbox": [1, 1, 5, 5]},
        {"id": 91, "image_id": 77, "category_id": 3, "bbox": [1, 1, 5, 5]},
        {"id": 92, "image_id": 10, "category_id": 3, "bbox": [1, 1, 0, 5]},
        {"id": 93, "image_id": 10, "category_id": 3, "bbox": [1, 1, 5]},
    ]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"class that is not in the list \(category 4\)"):
        open_dense(tmp_path, DETECT, "train")
    data = open_dense(tmp_path, DETECT, "train", skip_bad=True)
    same_boxes(data, open_dense(shapes, DETECT, "train"))
    assert sorted(data.left_out) == [
        "annotation without an image",
        "box that is not four numbers",
        "box without area",
        "class that is not in the list",
        "missing image",
    ]


@pytest.mark.parametrize(
    "line, kind",
    [
        ("2 0.5 0.5 0.1 0.1", "class beyond the last"),
        ("1 0.5 0.5 0.1", "line that is not an index and four numbers"),
        ("1 0.5 0.5 -0.1 0.1", "inverted box"),
        ("1 1.5 0.5 0.1 0.1", "box outside of the image"),
    ],
)
def test_bad_lines_of_yolo(line, kind, shapes, tmp_path):
    labels = as_yolo(shapes, tmp_path)
    with open(labels / "train001.txt", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=rf"train001\.txt: {kind}"):
        open_dense(tmp_path, DETECT, "train")
    data = open_dense(tmp_path, DETECT, "train", skip_bad=True)
    assert data.left_out == {kind: 1}
    same_boxes(data, open_dense(shapes, DETECT, "train"))


def test_annotations_of_another_data_set_are_refused(shapes, copy, tmp_path):
    for path in (copy / "masks" / "train").iterdir():
        path.rename(path.with_name(f"other{path.name}"))
    with pytest.raises(ValueError, match="of another data set"):
        open_dense(copy, SEGMENT, "train", skip_bad=True)
    path, content = as_coco(shapes, tmp_path / "coco")
    for image in content["images"]:
        image["file_name"] = "other" + image["file_name"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="of another data set"):
        open_dense(tmp_path / "coco", DETECT, "train", skip_bad=True)


def test_classes_of_another_data_set_are_refused(shapes):
    with pytest.raises(ValueError, match="class that is not in the list"):
        open_dense(shapes, DETECT, "val", labels=("cat", "dog"))


def test_masks_without_names_of_classes_or_colors(copy):
    (copy / "labels.txt").unlink()
    with pytest.raises(ValueError, match=r"labels\.txt.*--labels"):
        open_dense(copy, SEGMENT, "train")
    for path in (copy / "masks" / "train").iterdir():
        Image.open(path).convert("RGB").save(path)
    with pytest.raises(ValueError, match="RGB mask without a palette"):
        open_dense(copy, SEGMENT, "train", labels=NAMES, skip_bad=True)
    with pytest.raises(ValueError, match=r"not in the palette \(RGB \(0, 0, 0\)\)"):
        code = MaskCode(NAMES, ((9, 9, 9), (8, 8, 8), (7, 7, 7)))
        open_dense(copy, SEGMENT, "train", labels=code)


@pytest.mark.parametrize(
    "data, task, options, words",
    [
        ("", DETECT, {"format": "masks"}, "formats coco, voc, yolo"),
        ("", "classify", {}, "`task` must be one of segment, detect"),
        ("masks", DETECT, {}, "another --task"),
        ("labels.txt", SEGMENT, {}, "not a directory"),
    ],
)
def test_unsuitable_arguments(data, task, options, words, shapes):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        open_dense(shapes / data, task, "train", **options)


def test_a_json_file_that_lacks_a_field(shapes, tmp_path):
    path, content = as_coco(shapes, tmp_path)
    del content["annotations"][0]["bbox"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="KeyError: 'bbox'"):
        open_dense(tmp_path, DETECT, "train")


def test_the_shared_data(shared):
    for split, count in (("train", 367), ("val", 101)):
        data = open_dense(shared / "camvid", SEGMENT, split, labels=CAMVID)
        assert (len(data.images), len(data.classes), data.left_out) == (count, 11, {})
    for split, count, boxes in (("train", 205, 2804), ("val", 87, 1137)):
        data = open_dense(shared / "bccd", DETECT, split, skip_bad=True)
        assert (len(data.images), data.classes) == (count, ("Platelets", "RBC", "WBC"))
        assert sum(len(image.labels) for image in data.images) == boxes
        assert data.left_out == {"box without area": 1}
