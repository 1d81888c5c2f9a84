"""Recipes, which determine the result of a training, as frozen data."""

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_mobileone.errors import InputValueError
from keras_mobileone.variants import S0, S1, S2, S3, S4, Variant, get_variant

REFERENCE_BATCH = 256  # batch size to which the learning rate of a recipe refers
AUGMENTATIONS = (None, "autoaugment", "randaugment")
DTYPES = ("float32", "mixed_float16", "mixed_bfloat16")
OPTIMIZERS = ("sgd", "adamw", "muon")
CLASSIFY = "classify"
TASKS = (CLASSIFY, "segment", "detect")
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Phase:
    """A part of the curriculum.

    Attributes:
        start: First epoch of the phase, counted from 0.
        image_size: Side of the training crops in pixels.
        strength: Factor that scales the magnitudes of the augmentation, from 0 to 1.
    """

    start: int
    image_size: int
    strength: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """Settings of a training: schedule, regularization, and augmentation.

    Attributes:
        name: Name of the recipe, as in `--recipe`.
        variant: Variant of MobileOne to train.
        epochs: Number of passes over the training images.
        phases: Image size and augmentation strength over the epochs. The first phase starts at
            epoch 0.
        batch_size: Number of images in a step, over all devices and machines.
        learning_rate: Peak of the learning rate for 256 images in a step. It is scaled in
            proportion to `batch_size`.
        warmup_epochs: Number of epochs in which the learning rate rises linearly from
            `warmup_factor` times its peak.
        warmup_factor: Initial learning rate as a fraction of its peak.
        momentum: Momentum of SGD and Muon.
        weight_decay: Weight decay of the kernels at the start of the training, added to the
            gradient as in PyTorch.
        final_weight_decay: Weight decay at the end of the training. In between, it follows a half
            cosine.
        label_smoothing: Fraction of each label that is distributed over all classes.
        ema_decay: Decay of the moving average of weights and BatchNorm statistics, or None for no
            average.
        augmentation: None, `"autoaugment"` or `"randaugment"`, in addition to random crops and
            flips.
        crop_area: Smallest and largest area of a random crop as a fraction of the image.
        distillation: Weight of the teacher's loss in the total loss, or 0 for no teacher.
        temperature: Temperature of the softmax of teacher and student in the teacher's loss.
        task: `"classify"`, `"segment"` or `"detect"`.
        head: Settings of the head of a segmentation model or detector that differ from the
            defaults; see `SegmentationConfig` and `DetectionConfig`.
        evaluation_size: (height, width) of the finished model and of validation images of these
            tasks, or None for squares of `image_size`.
        scale: Random scale of segmentation; see `DenseAugmentation`. For these tasks, the strength
            of a phase is that of the photometric distortion.
        expand: Greatest factor by which the surroundings of images for detection are extended.
        object_crop: Whether images for detection are cropped at random around an object.
        validate_every: Number of epochs from one validation to the next. The last epoch is always
            validated.
        optimizer: `"sgd"`, or `"adamw"` or `"muon"`, whose weight decay is decoupled from the
            gradient and constant. AdamW has no `momentum`.
        dtype: Keras dtype policy.
        seed: Seed of the weights, the order and the augmentation.
        command: Command that runs the recipe.
        expected_time: Expected time of the training with its conditions, or "not measured".
        expected_accuracy: Expected top-1 accuracy with its source, or "not measured".

    Raises:
        ValueError: If a field is out of range.
    """

    name: str
    variant: Variant
    epochs: int
    phases: tuple[Phase, ...]
    batch_size: int = 256
    learning_rate: float = 0.1
    warmup_epochs: float = 5
    warmup_factor: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    final_weight_decay: float = 1e-5
    label_smoothing: float = 0.1
    ema_decay: float | None = 0.9995
    augmentation: str | None = None
    crop_area: tuple[float, float] = (0.08, 1.0)
    distillation: float = 0.0
    temperature: float = 1.0
    task: str = CLASSIFY
    head: dict[str, Any] = field(default_factory=dict)
    evaluation_size: tuple[int, int] | None = None
    scale: tuple[float, float] | None = None
    expand: float = 1.0
    object_crop: bool = False
    validate_every: int = 1
    optimizer: str = "sgd"
    dtype: str = "float32"
    seed: int = 0
    command: str = field(default="", compare=False)
    expected_time: str = field(default=NOT_MEASURED, compare=False)
    expected_accuracy: str = field(default=NOT_MEASURED, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", tuple(self.phases))
        for name in ("crop_area", "evaluation_size", "scale"):
            if isinstance(getattr(self, name), list):  # JSON has no tuples
                object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "head", json.loads(json.dumps(self.head)))
        size, scale = self.evaluation_size, self.scale
        area = self.crop_area
        starts = [phase.start for phase in self.phases]
        limits = {
            "epochs": self.epochs >= 1,
            "validate_every": self.validate_every >= 1,
            "phases": starts[:1] == [0] and starts == sorted(set(starts)),
            "batch_size": self.batch_size >= 1,
            "learning_rate": self.learning_rate > 0,
            "warmup_epochs": 0 <= self.warmup_epochs < self.epochs,
            "warmup_factor": 0 <= self.warmup_factor <= 1,
            "momentum": 0 <= self.momentum < 1,
            "weight_decay": self.weight_decay >= 0,
            "final_weight_decay": 0 <= self.final_weight_decay <= self.weight_decay,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "ema_decay": self.ema_decay is None or 0 < self.ema_decay < 1,
            "augmentation": self.augmentation in AUGMENTATIONS,
            "crop_area": isinstance(area, tuple) and len(area) == 2 and 0 < area[0] <= area[1] <= 1,
            "distillation": 0 <= self.distillation <= 1,
            "temperature": self.temperature > 0,
            "task": self.task in TASKS,
            "head": isinstance(self.head, dict) and (self.task != CLASSIFY or not self.head),
            "evaluation_size": size is None or (len(size) == 2 and min(size) >= 32),
            "scale": scale is None or (len(scale) == 2 and 0 < scale[0] <= scale[1]),
            "expand": self.expand >= 1,
            "optimizer": self.optimizer in OPTIMIZERS,
            "dtype": self.dtype in DTYPES,
        }
        for name, holds in limits.items():
            if not holds:
                raise InputValueError(
                    f"Recipe {self.name!r} has a `{name}` that is out of range (see the class "
                    f"`Recipe`). Received: {name}={getattr(self, name)}."
                )
        for phase in self.phases:
            if phase.image_size < 32 or not 0 <= phase.strength <= 1:
                raise InputValueError(
                    "A phase needs an image size of at least 32 and a strength in [0, 1]. "
                    f"Received: {phase}."
                )

    def with_epochs(self, epochs: int) -> "Recipe":
        """Returns the recipe stretched to `epochs`, with warm-up and phases in proportion."""
        if epochs < 1:
            raise InputValueError(f"`epochs` must be at least 1. Received: epochs={epochs}.")
        factor = epochs / self.epochs
        # Keyed by the start, so that of several phases with the same start the last one is kept.
        phases = {}
        for phase in self.phases:
            start = min(round(phase.start * factor), epochs - 1)
            phases[start] = dataclasses.replace(phase, start=start)
        return dataclasses.replace(
            self,
            epochs=epochs,
            warmup_epochs=self.warmup_epochs * factor,
            phases=tuple(phases.values()),
        )

    def changed(self, settings: Iterable[str]) -> "Recipe":
        """Returns the recipe with settings `NAME=VALUE`, whose values are JSON.

        `image_size` sets a single phase for the whole training, and `variant` takes a name.
        `epochs` is applied first and stretches the other settings.

        Raises:
            ValueError: If a setting does not exist or a value is out of range.
        """
        changes = dict(_parse_setting(setting) for setting in settings)
        recipe = self.with_epochs(changes.pop("epochs")) if "epochs" in changes else self
        if "image_size" in changes:
            changes["phases"] = (Phase(0, changes.pop("image_size")),)
        if isinstance(changes.get("variant"), str):
            changes["variant"] = get_variant(changes["variant"])
        return dataclasses.replace(recipe, **changes)

    @property
    def peak_learning_rate(self) -> float:
        """Peak of the learning rate for the recipe's batch size."""
        return self.learning_rate * self.batch_size / REFERENCE_BATCH

    @property
    def image_size(self) -> int:
        """Size in pixels at the end of training, which is the input size of the finished model."""
        return self.phases[-1].image_size

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the finished model in pixels."""
        return self.evaluation_size or (self.image_size, self.image_size)

    def phase(self, epoch: int) -> Phase:
        """Returns the phase that `epoch` belongs to."""
        return [phase for phase in self.phases if phase.start <= epoch][-1]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the recipe as JSON, which `get_recipe` reads."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        Path(path).write_text(text, encoding="utf-8")


SETTINGS = sorted({f.name for f in dataclasses.fields(Recipe) if f.compare} - {"name", "phases"})


def _parse_setting(setting: str) -> Any:
    name, equals, text = setting.partition("=")
    if not equals or name not in (*SETTINGS, "image_size"):
        raise InputValueError(
            f"Expected NAME=VALUE with one of {', '.join([*SETTINGS, 'image_size'])}. "
            f"Received: {setting!r}."
        )
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text  # a string needs no quotes
    default = {f.name: f.type for f in dataclasses.fields(Recipe)}.get(name, int)
    numeric = default in (int, float) or name == "ema_decay"
    if numeric and not (isinstance(value, (int, float)) or (value is None and name == "ema_decay")):
        raise InputValueError(f"Expected a number for {name}. Received: {setting!r}.")
    if default is int and value != int(value):
        raise InputValueError(f"Expected a whole number for {name}. Received: {setting!r}.")
    return name, value


def get_recipe(name: str | os.PathLike) -> Recipe:
    """Returns the recipe called `name`, or the recipe in a JSON file that `Recipe.save` wrote.

    Args:
        name: Name of a recipe, or path of a JSON file.

    Returns:
        A `Recipe`.

    Raises:
        FileNotFoundError: If there is neither such a recipe nor such a file.
        ValueError: If the file is not a recipe.
    """
    if str(name) in RECIPES:
        return RECIPES[str(name)]
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a recipe ({', '.join(RECIPES)}) or the path of a recipe.json. "
            f"Received: {str(name)!r}."
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        data["variant"] = Variant(**data["variant"])
        data["phases"] = [Phase(**phase) for phase in data["phases"]]
        return Recipe(**data)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputValueError(
            f"Expected a recipe as `Recipe.save` writes it. Received: {path} ({error})."
        ) from error


def _train_command(name: str, options: str = "") -> str:
    return f"keras-mobileone train --data imagenet/ --recipe {name} --output run/{options}"


# The recipe of the paper, section 4.1: 300 epochs, batch size 256, learning rate 0.1, and for S0
# and S1 only crops and flips. The warm-up and the choice of decayed variables are those of
# mmpretrain (configs/mobileone), whose retraining reached the stated accuracies.
_PAPER = {"epochs": 300}
_PLAIN = (Phase(0, 224),)
# The curriculum of S2 to S4 in mmpretrain. The paper refers to the curriculum of EfficientNetV2,
# which increases both the image size and the augmentation strength, without stating its steps.
_GROWING = (Phase(0, 160, 0.3), Phase(37, 192, 0.7), Phase(112, 224, 1.0))


def _imagenet(key: str, variant: Variant, accuracy: str, **changes: Any) -> Recipe:
    return Recipe(
        key,
        variant,
        **{"phases": _PLAIN, **_PAPER, **changes},
        command=_train_command(key),
        expected_accuracy=accuracy,
    )


def _distilled(recipe: Recipe, accuracy: str) -> Recipe:
    # The paper states the accuracies with distillation, but not the teacher, the weight of its loss
    # or the temperature.
    key = f"{recipe.name}-distilled"
    return dataclasses.replace(
        recipe,
        name=key,
        distillation=0.5,
        label_smoothing=0.0,
        command=_train_command(key, " --teacher TEACHER.keras"),
        expected_accuracy=accuracy,
    )


_GROWING_AUTO = {"phases": _GROWING, "augmentation": "autoaugment"}
_S0 = _imagenet("s0", S0, "71.4 % (paper), 71.3 % (mmpretrain); not measured here")
_S1 = _imagenet("s1", S1, "75.9 % (paper), 75.7 % (mmpretrain); not measured here")
_S2 = _imagenet("s2", S2, "77.4 % (paper), 77.4 % (mmpretrain); not measured here", **_GROWING_AUTO)
_S3 = _imagenet("s3", S3, "78.1 % (paper), 78.1 % (mmpretrain); not measured here", **_GROWING_AUTO)
_S4 = _imagenet("s4", S4, "79.4 % (paper), 79.7 % (mmpretrain); not measured here", **_GROWING_AUTO)

_FINETUNE = Recipe(
    "finetune",
    S0,
    epochs=2,
    phases=(Phase(0, 160),),
    batch_size=32,
    learning_rate=0.08,
    warmup_epochs=0.2,
    weight_decay=1e-5,
    final_weight_decay=1e-5,
    ema_decay=0.99,
    crop_area=(0.35, 1.0),
    command="keras-mobileone finetune --data photos/ --output run/",
    expected_time="57 min for Imagenette's 9,469 images, S0, two cores shared with other work",
    expected_accuracy="96.3 % on Imagenette (benchmarks/results/finetune.json)",
)

# Training from scratch on ten classes and few images. The image size grows because small images
# train several times faster. It ends below 224 pixels, at which the model is used, because objects
# look larger in random crops than in the center crop of a photograph (Touvron et al., arXiv
# 1906.06423). The augmentation becomes weaker in the end, and the learning rate falls to zero, so
# that an average of the weights would not improve on them.
_IMAGENETTE = Recipe(
    "imagenette",
    S0,
    epochs=110,
    phases=(
        Phase(0, 64),
        Phase(40, 96),
        Phase(76, 128, 0.5),
        Phase(100, 160, 0.5),
        Phase(106, 192, 0.5),
    ),
    batch_size=128,
    optimizer="muon",
    learning_rate=0.06,
    warmup_epochs=2,
    weight_decay=0.03,
    final_weight_decay=0.03,
    ema_decay=None,
    augmentation="autoaugment",
    crop_area=(0.25, 1.0),
    validate_every=10,
    command="keras-mobileone train --data imagenette/ --recipe imagenette --output run/",
    expected_time="2.0 h for Imagenette's 9,469 images, two cores (AVX-512)",
    expected_accuracy="91.29 % at 192 pixels, 89.96 % at 224 (benchmarks/results/imagenette)",
)

# For CI: a network of 90,000 parameters that trains in minutes on two cores.
CI_VARIANT = Variant(
    "mobileone_ci", (1.0, 1.0, 1.0, 1.0), 2, depths=(1, 2, 2, 1), base_filters=(24, 48, 96, 192)
)
_CI = Recipe(
    "ci",
    CI_VARIANT,
    epochs=12,
    phases=(Phase(0, 64, 0.5), Phase(6, 96)),
    batch_size=32,
    learning_rate=0.4,
    warmup_epochs=1,
    ema_decay=0.9,
    crop_area=(0.35, 1.0),
    command="keras-mobileone train --data imagenette/ --recipe ci --output run/",
)

# For photographs with masks. The optimizer and the weight decay are those of ml-cvnets'
# deeplabv3_mobilevit; the learning rate is 1e-3 at batch size 8.
_SEGMENT = Recipe(
    "segment",
    S0,
    task="segment",
    epochs=60,
    phases=(Phase(0, 256),),
    batch_size=8,
    optimizer="adamw",
    learning_rate=0.032,
    warmup_epochs=2,
    weight_decay=0.01,
    final_weight_decay=0.01,
    label_smoothing=0.0,
    ema_decay=0.998,
    scale=(0.75, 2.5),
    command="keras-mobileone finetune --data streets/ --recipe segment --output run/",
)

# For photographs with boxes. Expansion and crop are those of mmdetection's ssdlite.
_DETECT = Recipe(
    "detect",
    S0,
    task="detect",
    epochs=120,
    phases=(Phase(0, 320),),
    batch_size=16,
    optimizer="adamw",
    learning_rate=0.016,
    warmup_epochs=3,
    weight_decay=0.01,
    final_weight_decay=0.01,
    label_smoothing=0.0,
    ema_decay=0.998,
    expand=4.0,
    object_crop=True,
    command="keras-mobileone finetune --data cells/ --recipe detect --output run/",
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        _S0,
        _S1,
        _S2,
        _S3,
        _S4,
        _distilled(_S1, "77.4 % (paper); not measured here"),
        _distilled(_S2, "79.1 % (paper); not measured here"),
        _distilled(_S3, "80.0 % (paper); not measured here"),
        _distilled(_S4, "81.4 % (paper); not measured here"),
        _FINETUNE,
        _IMAGENETTE,
        _CI,
        _SEGMENT,
        _DETECT,
    )
}
