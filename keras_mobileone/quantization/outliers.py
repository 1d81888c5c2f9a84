"""Limits rare large activations where the outputs gain by it.

The int8 scale of a tensor has to span its largest values, and leaves few levels for all others if
those are rare. In S0 these are above all pixels of the upper right corner near the end of its third
stage, in about one photograph of eight, at which most channels are many times as large as anywhere
else. But how large such values are matters little to the outputs, as long as they are large, and if
they are limited in one layer, they are also smaller in the layers behind it.
"""

from dataclasses import dataclass

import keras
import numpy as np

from keras_mobileone.quantization.scaling_groups import ScalingGroup
from keras_mobileone.quantization.statistics import (
    BATCH_SIZE,
    DEAD,
    SENSITIVITY_IMAGES,
    GroupStatistics,
    TensorStatistics,
    before_saturation,
    image_maxima,
    standard_deviation,
    stored_tensors,
)
from keras_mobileone.quantization.trace import Tensor, Trace

# Only tensors whose rounding causes at least this part of the error are tried.
SMALLEST_SHARE = 0.02
# The maximum of a channel in an image is usual if it does not exceed this quantile over the images.
# Usual values are never limited.
USUAL = 0.75
FRACTIONS = (0.85, 0.7, 0.5, 0.35, 0.25)  # limits to try, as parts of the largest value
# A limit has to reduce the error by this part, since values of other images exceed it more often.
SMALLEST_GAIN = 0.01

Values = dict[int, Tensor]  # by the id of the symbolic tensor


@dataclass(frozen=True)
class Effect:
    """What limits cause.

    Attributes:
        error: Squared error of the outputs by the limits and by rounding, in units of the variance
            of the outputs, summed over the outputs of an average image.
        maxima: Largest magnitude of each channel in each image, (images, channels), of each stored
            tensor of the groups.
    """

    error: float
    maxima: list[np.ndarray]


def find_limits(
    trace: Trace,
    groups: list[ScalingGroup],
    statistics: list[GroupStatistics],
    images: np.ndarray,
) -> dict[int, np.ndarray]:
    """Chooses limits of activations that reduce the expected error of the int8 outputs.

    The tensors whose rounding matters are visited in order, and limited step by step as long as the
    error falls. The error that a limit causes in the outputs is measured, and added to the rounding
    errors that remain in the tensor and behind it.

    Args:
        trace: The model.
        groups: Groups of its channels.
        statistics: Their statistics on the same images. The maxima become those of the limited
            model.
        images: Calibration images, as the model takes them.

    Returns:
        Largest value of each channel, shape (channels,), by the id of the symbolic tensor.
    """
    search = _Search(trace, groups, statistics, images)
    limits: dict[int, np.ndarray] = {}
    for index, tensor in search.candidates:
        if search.share(index) < SMALLEST_SHARE:
            continue
        search.advance(tensor)
        maxima = search.best.maxima[index]
        usual, largest = np.quantile(maxima, USUAL, axis=0), maxima.max(0)
        for fraction in FRACTIONS:
            limit = np.maximum(usual, fraction * largest).astype(np.float32)
            effect = search.effect(tensor, limit)
            if effect.error > (1 - SMALLEST_GAIN) * search.best.error:
                break
            search.best, limits[id(tensor)] = effect, limit
        if id(tensor) in limits:
            search.apply(tensor, limits[id(tensor)])
    search.update_maxima()
    return limits


class _Search:
    """Computes the effects of limits.

    What comes before the tensor to which the search has advanced is computed only once.

    Attributes:
        candidates: The outputs of ReLUs that an int8 file fuses with their convolution, in order,
            with their index among the stored tensors.
        best: Effect of the best limits so far.
    """

    def __init__(
        self,
        trace: Trace,
        groups: list[ScalingGroup],
        statistics: list[GroupStatistics],
        images: np.ndarray,
    ):
        self._trace = trace
        self._made_at = {id(t): i for i, call in enumerate(trace.calls) for t in call.outputs}
        self._stored: list[tuple[keras.KerasTensor, slice, TensorStatistics]] = []
        self.candidates: list[tuple[int, keras.KerasTensor]] = []
        for group, of_group in zip(groups, statistics, strict=True):
            stored = stored_tensors(trace, group)
            if stored[0] is not group.producer.output:
                self.candidates.append((len(self._stored), stored[0]))
            for tensor, measured in zip(stored, of_group.tensors, strict=True):
                self._stored.append((tensor, group.channels(tensor), measured))
        self.candidates.sort(key=lambda candidate: self._made_at[id(candidate[1])])
        self._outputs = before_saturation(trace)
        self._images = len(images)
        maxima = [measured.maxima for _, _, measured in self._stored]
        self.best = Effect(self._rounding_error(maxima), maxima)
        # For each batch the values of the tensors that the calls from `_position` on take.
        source = id(trace.model.inputs[0])
        starts = range(0, len(images), BATCH_SIZE)
        self._states: list[Values] = [{source: images[i : i + BATCH_SIZE]} for i in starts]
        self._position = 0
        self._wanted: list[list[Tensor]] = []  # the outputs without limits

    def share(self, index: int) -> float:
        """Returns the part of the error that the rounding of a stored tensor causes."""
        _, _, measured = self._stored[index]
        return self._rounding_of(measured, self.best.maxima[index]) / max(self.best.error, DEAD)

    def advance(self, tensor: keras.KerasTensor) -> None:
        """Computes all calls up to the one that returns `tensor`."""
        import tensorflow as tf

        calls = self._trace.calls
        stop = self._made_at[id(tensor)] + 1
        needed = {id(t) for call in calls[stop:] for t in call.inputs}
        needed |= {id(output) for output in self._outputs}

        def advanced(state: Values) -> Values:
            values = dict(state)
            self._trace.resume(values, range(self._position, stop))
            return {key: value for key, value in values.items() if key in needed}

        def finished(state: Values) -> tuple[list[Tensor], dict[int, Tensor]]:
            values = dict(state)
            self._trace.resume(values, range(stop, len(calls)))
            maxima = {
                index: image_maxima(values[id(stored)][..., own])
                for index, (stored, own, _) in enumerate(self._stored)
                if id(stored) in values
            }
            return [values[id(output)] for output in self._outputs], maxima

        advance = tf.function(advanced)
        for index, state in enumerate(self._states):
            self._states[index] = advance(state)
        self._position, self._finish = stop, tf.function(finished)
        if not self._wanted:
            self._wanted = [self._finish(state)[0] for state in self._states]

    def effect(self, tensor: keras.KerasTensor, limit: np.ndarray) -> Effect:
        """Returns the effect of a limit of the tensor to which the search has advanced."""
        error, parts = 0.0, []
        for state, wanted in zip(self._limited(tensor, limit), self._wanted, strict=True):
            outputs, maxima = self._finish(state)
            parts.append(maxima)
            for got, reference in zip(outputs, wanted, strict=True):
                errors = np.asarray((got - reference) / standard_deviation(reference))
                error += float(np.square(errors).sum()) / self._images
        maxima = list(self.best.maxima)
        for index in parts[0]:
            maxima[index] = np.concatenate([part[index] for part in parts])
        return Effect(error + self._rounding_error(maxima), maxima)

    def apply(self, tensor: keras.KerasTensor, limit: np.ndarray) -> None:
        """Limits the tensor to which the search has advanced in all that is computed later."""
        self._states = self._limited(tensor, limit)

    def update_maxima(self) -> None:
        """Replaces the maxima of the statistics by those under the best limits."""
        for (_, _, measured), maxima in zip(self._stored, self.best.maxima, strict=True):
            measured.maxima = maxima

    def _limited(self, tensor: keras.KerasTensor, limit: np.ndarray) -> list[Values]:
        key = id(tensor)
        return [state | {key: keras.ops.minimum(state[key], limit)} for state in self._states]

    def _rounding_error(self, maxima: list[np.ndarray]) -> float:
        """Returns the expected error by rounding, with a separate scale for each channel.

        Equalization comes close to separate scales.
        """
        return sum(
            self._rounding_of(measured, of_tensor)
            for (_, _, measured), of_tensor in zip(self._stored, maxima, strict=True)
        )

    def _rounding_of(self, measured: TensorStatistics, maxima: np.ndarray) -> float:
        """Returns the expected error by rounding a tensor of these maxima, (images, channels)."""
        steps = measured.step(maxima.max(0))
        error = float((measured.sensitivity * steps**2).sum()) / 12
        return error / min(self._images, SENSITIVITY_IMAGES)
