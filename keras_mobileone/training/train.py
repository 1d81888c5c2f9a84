"""`train` trains a model in the directory of a run, from the data to the deploy model."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_mobileone.choices import SAVE_EVERY
from keras_mobileone.data.folders import some
from keras_mobileone.data.pipeline import BadImages, broken_image, first_broken
from keras_mobileone.data.sources import Source
from keras_mobileone.errors import InputValueError
from keras_mobileone.export.tflite import require_exportable
from keras_mobileone.files import atomic_write
from keras_mobileone.training.callbacks import CHECKPOINT, Recorder, Validation
from keras_mobileone.training.checkpoint import Progress, broadcast_state, load_checkpoint
from keras_mobileone.training.distribution import Devices, check_service, lost_machine, serve
from keras_mobileone.training.finalize import (
    DEPLOY,
    TrainingReport,
    conditions,
    export_files,
    save_models,
)
from keras_mobileone.training.optimizer import make_optimizer
from keras_mobileone.training.pictures import tensorboard_callbacks
from keras_mobileone.training.recipe import CLASSIFY, Phase, Recipe, get_recipe
from keras_mobileone.training.task import Task
from keras_mobileone.training.tasks import make_task
from keras_mobileone.training.trainer import Trainer

RECIPE = "recipe.json"
CLASSES = "classes.txt"
REPORT = "report.json"
READ_AHEAD = 64  # batches that the input pipeline may prepare ahead of the training


def train(
    recipe: Recipe,
    data: str | os.PathLike,
    output: str | os.PathLike,
    *,
    resume: bool = False,
    initial: Callable[[Source], keras.Model] | None = None,
    teacher: keras.Model | None = None,
    devices: Devices | None = None,
    skip_bad: bool = False,
    data_service: str | None = None,
    save_every: int = SAVE_EVERY,
    tensorboard: bool = False,
    exports: Sequence[str] = (),
    labels: str | os.PathLike | Sequence[str] | None = None,
    data_format: str | None = None,
    log: Callable[[str], object] | None = None,
) -> TrainingReport | None:
    """Trains a MobileOne model, then fuses, evaluates and exports it.

    The recipe says whether it is a classifier, a segmentation model or a detector.

    All random numbers depend only on the seed of the recipe and the number of the step. A run that
    is killed and continued with `resume` therefore ends with the same weights as an uninterrupted
    run.

    Args:
        recipe: The training recipe; see `get_recipe`.
        data: Directory with `train/` and optionally `val/`, both with class folders; or directory
            of TFRecords, as `write_tfrecords` writes them; or `"tfds:NAME"`. For segmentation and
            detection, a directory of images with masks or boxes; see
            `keras_mobileone.data.dense.formats.open_dense`.
        output: Directory of the run, new or empty. It is created if it does not exist.
        resume: Whether to continue from the checkpoint in `output`.
        initial: Function that takes the source of training images and returns the train-time model
            with the initial weights. By default, the weights are random.
        teacher: Model that takes normalized images, for a recipe with distillation.
        devices: Devices to train on. By default, all devices of this machine.
        skip_bad: Whether to leave out files that can't be decoded, and bad annotations, instead of
            raising an error.
        data_service: Address `grpc://host:port` of the dispatcher of a tf.data service, whose
            workers decode and augment the training images. The order of the images is then not
            deterministic, and a resumed run differs from an uninterrupted one.
        save_every: Number of steps between checkpoints within an epoch. One more checkpoint is
            written after each epoch.
        tensorboard: Whether to write TensorBoard logs too, which needs the package tensorboard. For
            segmentation and detection they hold pictures of predictions.
        exports: Precisions of the TFLite files to write; see `export_tflite`. Training images
            calibrate the integer ones.
        labels: File of class names, or the names, of masks or boxes. By default, those of the data.
        data_format: Format of the masks or boxes. By default, it is recognized.
        log: Function called with a line about the training images and one about the validation
            images.

    Returns:
        A `TrainingReport`, or None on all machines but the first.

    Raises:
        FileExistsError: If `output` is not empty and `resume` is False.
        FileNotFoundError: If there is no data, or no run to resume.
        ValueError: If the recipe does not fit the devices or the run to resume, if the recipe or
            the data differs between machines, or if a file can't be decoded. The message names the
            file.
        ArithmeticError: If the loss is not finite.
        ConnectionError: If another machine is lost, or if the data service does not answer.

    Examples:
        ```python
        recipe = keras_mobileone.get_recipe("s0")
        keras_mobileone.train(recipe, "imagenet/", "runs/s0")
        ```
    """
    for precision in exports:
        require_exportable(precision)
    devices = devices or Devices()
    devices.share(recipe.batch_size)
    task = make_task(recipe, labels, data_format, skip_bad)
    check_task(task, data_service)
    source = task.open(data, "train")
    if source is None:
        raise InputValueError(
            f"Expected training images. Received: {data}, which has no training split."
        )
    check_teacher(recipe, teacher, len(source.classes), task)
    validation = task.open(data, "val", source)
    if source.images < recipe.batch_size:
        raise InputValueError(
            f"Expected at least one batch of {recipe.batch_size} training images. Received: "
            f"{source.images} in {data}. Lower it with --set batch_size=N."
        )
    if len(source.classes) < task.least_classes:
        remedy = "Pass the directory that contains one folder for each class."
        raise InputValueError(
            f"Expected at least two classes. Received: {some(source.classes)} in "
            f"{data}.{f' {remedy}' if task.name == CLASSIFY else ''}"
        )
    check_service(data_service, skip_bad)
    if log is not None and devices.chief:
        log(f"Training: {task.describe(source)}")
        if validation is not None:
            log(f"Validation: {task.describe(validation)}")
    directory = Path(output)
    logs: list[keras.callbacks.Callback] = []
    if tensorboard:
        logs = tensorboard_callbacks(directory / "tensorboard", task, recipe, validation or source)
    steps_per_epoch = source.images // recipe.batch_size
    progress, bad = Progress(), BadImages(skip_bad)
    if devices.chief:
        check_run(directory, recipe, source.classes, resume)
    # This comes before any file is written, because the weights may not fit.
    fresh = devices.chief and not (resume and (directory / CHECKPOINT).is_file())
    start = initial(source) if fresh and initial is not None else None
    with explained_errors(devices):
        if devices.chief:
            open_run(directory, recipe, source.classes)
        devices.require_same(work_of(recipe, source, validation), "recipe and data")
        trainer = make_trainer(recipe, len(source.classes), steps_per_epoch, devices, teacher, task)
        if devices.chief and not fresh:
            progress = load_checkpoint(directory / CHECKPOINT, trainer)
            bad.names.update(progress.skipped)
        if start is not None:
            trainer.network.set_weights(start.get_weights())
            trainer.reset_averages()
        if devices.workers > 1:
            progress.step = broadcast_state(trainer, progress.step, devices)
        run = Run(
            recipe, source, validation, trainer, devices, bad, steps_per_epoch, task, data_service
        )
        place = directory if devices.chief else None
        recorder = Recorder(place, progress, run.validation(), save_every, bad)
        run.fit(progress, [recorder, *(logs if devices.chief else [])])
    if not devices.chief:
        return None
    models = save_models(recipe, trainer, directory, source.classes)
    compared = {} if validation is None else task.compare(models, recipe, validation, bad)
    problems = [*task.left_out(source), *(task.left_out(validation) if validation else ())]
    report = TrainingReport(
        directory=str(directory),
        recipe=recipe,
        classes=len(source.classes),
        training_images=source.images,
        validation_images=validation.images if validation else 0,
        steps=progress.step,
        history=progress.history,
        top1=compared.get("top1"),
        agreement=compared.get("agreement"),
        averaged=bool(trainer.averages),
        exports={},
        skipped=[*sorted(bad.names), *problems],
        seconds=round(progress.seconds, 1),
        conditions=conditions(recipe, devices),
        scores=compared.get("scores"),
    )
    # The report is written before the exports. If an export fails, the report exists, and `resume`
    # repeats only the exports.
    report.save(directory / REPORT)
    files = export_files(models[DEPLOY], recipe, source, exports, directory, bad, task)
    report = dataclasses.replace(report, exports=files, skipped=[*sorted(bad.names), *problems])
    report.save(directory / REPORT)
    return report


@dataclass
class Run:
    """A training run, which calls `fit` for each phase of the recipe."""

    recipe: Recipe
    source: Source
    val_source: Source | None
    trainer: Trainer
    devices: Devices
    bad: BadImages
    steps_per_epoch: int
    task: Task
    data_service: str | None = None

    def fit(self, progress: Progress, callbacks: list) -> None:
        """Trains from the step in `progress` to the end of the recipe."""
        total = self.recipe.epochs * self.steps_per_epoch
        traced = None
        while progress.step < total:
            first, end, steps, phase = self.stretch(progress.step)
            if phase.image_size != traced:
                # `tf.function` generalizes over the image sizes that it has seen. A step that is
                # traced for a second size would not have a static size, and would give other
                # results than the same step of a resumed run, which sees only that size.
                self.trainer.make_train_function(force=True)
                traced = phase.image_size
            try:
                self.trainer.fit(
                    self.training(phase, progress.step),
                    initial_epoch=first,
                    epochs=end,
                    steps_per_epoch=steps,
                    callbacks=callbacks,
                    shuffle=False,  # the batches are shuffled
                    verbose=(1 if sys.stdout.isatty() else 2) if self.devices.chief else 0,
                )
            except Exception as error:
                self.require_whole_images(error, progress.step)
                raise

    def require_whole_images(self, error: Exception, step: int) -> None:
        """Raises ValueError with the name of a broken file if that may be why `step` failed."""
        if type(error).__name__ != "InvalidArgumentError":  # TensorFlow's, on any backend
            return
        recipe = self.recipe
        ahead = self.source.stream(step * recipe.batch_size, recipe.seed)
        name = first_broken(ahead.take(READ_AHEAD * recipe.batch_size))
        if name is None and self.val_source is not None:
            name = first_broken(self.val_source.stream())
        if name is not None:
            raise broken_image(name) from error

    def stretch(self, step: int) -> tuple[int, int, int, Phase]:
        """Returns first and last epoch, steps per epoch, and phase of the next `fit` call.

        An interrupted epoch is completed in its own `fit` call.
        """
        first, done = divmod(step, self.steps_per_epoch)
        starts = [phase.start for phase in self.recipe.phases if phase.start > first]
        end = first + 1 if done else min([*starts, self.recipe.epochs])
        return first, end, self.steps_per_epoch - done, self.recipe.phase(first)

    def training(self, phase: Phase, step: int) -> Any:
        """Returns the training batches of `phase`, from `step` on."""
        recipe, devices = self.recipe, self.devices

        def batches(size: int) -> Any:
            made = self.task.training_batches(
                self.source,
                recipe,
                phase,
                size,
                start=step * recipe.batch_size,
                worker=devices.worker,
                workers=devices.workers,
                bad=self.bad,
            )
            return made if self.data_service is None else serve(made, self.data_service)

        return devices.distribute(batches, recipe.batch_size)

    def validation(self) -> Validation | None:
        """Returns what is validated, or None without validation images."""
        source, recipe, devices = self.val_source, self.recipe, self.devices
        if source is None:
            return None
        batches = devices.distribute(
            lambda size: self.task.evaluation_batches(
                source,
                recipe,
                size,
                worker=devices.worker,
                workers=devices.workers,
                replicas=devices.replicas,
                bad=self.bad,
            ),
            recipe.batch_size,
        )

        def scores(trainer: Trainer) -> dict[str, float]:
            if devices.workers > 1:  # one machine can't call the network alone
                return {}
            return self.task.scores(trainer, source, recipe, self.bad)

        steps, every = -(-source.images // recipe.batch_size), recipe.validate_every
        epochs = {*range(every, recipe.epochs, every), recipe.epochs}
        return Validation(batches, steps, scores, epochs)


def check_run(directory: Path, recipe: Recipe, classes: Sequence[str], resume: bool) -> None:
    """Raises an error unless `directory` is empty, or has a run of this recipe to resume."""
    if resume:
        check_same(directory, recipe, classes)
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(
            f"Expected a new or empty directory for the run. Received: {directory}. Add --resume "
            "to continue the run in it, or pass another one."
        )


def open_run(directory: Path, recipe: Recipe, classes: Sequence[str]) -> None:
    """Creates the directory of a run, with its recipe and its classes."""
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_write(directory / RECIPE) as temporary:
        recipe.save(temporary)
    with atomic_write(directory / CLASSES) as temporary:
        temporary.write_text("\n".join(classes) + "\n", encoding="utf-8")


def check_same(directory: Path, recipe: Recipe, classes: Sequence[str]) -> None:
    """Raises an error unless `directory` has a run of this recipe and these classes."""
    if not (directory / RECIPE).is_file():
        raise FileNotFoundError(
            f"Expected the directory of a run to resume. Received: {directory}, which has no "
            f"{RECIPE}. Start without --resume."
        )
    before = get_recipe(directory / RECIPE)
    for field in dataclasses.fields(Recipe):
        old, new = getattr(before, field.name), getattr(recipe, field.name)
        if field.compare and old != new:
            raise InputValueError(
                f"Resuming needs the recipe of the first run. Received: {field.name}={new}, where "
                f"{directory / RECIPE} has {old}."
            )
    names = directory / CLASSES
    known = names.read_text(encoding="utf-8").splitlines() if names.is_file() else list(classes)
    if known != list(classes):
        raise InputValueError(
            f"Resuming needs the classes of the first run. Received: {len(classes)} classes, where "
            f"{names} has {len(known)}, or other class names."
        )


def work_of(recipe: Recipe, source: Source, validation: Source | None) -> str:
    """Returns a description of the recipe and the data, which must be the same on all machines."""
    fields = dataclasses.fields(Recipe)
    settings = {field.name: getattr(recipe, field.name) for field in fields if field.compare}
    return repr((settings, source.classes, source.images, validation and validation.images))


def make_trainer(
    recipe: Recipe,
    classes: int,
    steps_per_epoch: int,
    devices: Devices,
    teacher: Any = None,
    task: Task | None = None,
) -> Trainer:
    """Returns a compiled trainer around a network with random weights."""
    keras.utils.set_random_seed(recipe.seed)
    task = task or make_task(recipe)
    with devices.scope():
        network = task.build(recipe, classes, synchronized=devices.synchronized, dtype=recipe.dtype)
        for phase in recipe.phases:
            task.prepare(network, recipe, (phase.image_size, phase.image_size))
        task.prepare(network, recipe, recipe.input_size)
        trainer = Trainer(network, recipe, teacher, devices.workers, task, classes)
        optimizer = make_optimizer(recipe, steps_per_epoch)
        if recipe.optimizer == "adamw":  # as for SGD, biases and BatchNorm are not decayed
            optimizer.exclude_from_weight_decay(
                [v for v in trainer.trainable_variables if len(v.shape) < 2]
            )
        if recipe.dtype == "mixed_float16":  # `compile` uses the dtype of the trainer
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        trainer.compile(optimizer)
        trainer.optimizer.build(trainer.trainable_variables)
    return trainer


def check_task(task: Task, data_service: str | None) -> None:
    """Raises ValueError if a data service is given, which only classifiers can use."""
    if task.name != CLASSIFY and data_service:
        raise InputValueError(
            f"`data_service` is for classifiers. Received: data_service={data_service!r} with a "
            f"recipe for the task {task.name!r}. Leave it out."
        )


def check_teacher(recipe: Recipe, teacher: Any, classes: int, task: Task | None = None) -> None:
    """Raises an error unless a fitting teacher is given exactly if the recipe has distillation."""
    if (teacher is not None) != (recipe.distillation > 0):
        raise InputValueError(
            f"Recipe {recipe.name!r} has distillation={recipe.distillation}. Received: "
            f"{'a' if teacher is not None else 'no'} teacher. Pass a teacher (--teacher) for a "
            "recipe with distillation, and for no other."
        )
    if teacher is not None:
        (task or make_task(recipe)).check_teacher(teacher, recipe, classes)


@contextmanager
def explained_errors(devices: Devices) -> Iterator[None]:
    """Converts TensorFlow's errors about a lost machine to a clear message."""
    try:
        yield
    except Exception as error:
        sentence = lost_machine(error, devices)
        if sentence:
            raise ConnectionError(sentence) from error
        raise
