"""Limits rare large activations where the outputs gain by it.

The int8 scale of a tensor has to span its largest values, and leaves few levels for all others if
those are rare. In S0 these are above all pixels of the upper right corner near the end of its third
stage, in about one photograph of eight, at which most channels are many times as large as anywhere
else. But how large such values are matters little to the outputs, as long as they are large, and if
they are limited in one layer, they are also smaller in the layers behind it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import keras
import numpy as np

from keras_mobileone.quantization.scaling_groups import ScalingGroup
from keras_mobileone.quantization.statistics import (
    BATCH_SIZE,
    SENSITIVITY_IMAGES,
    GroupStatistics,
    TensorStatistics,
    before_saturation,
    image_maxima,
    standard_deviation,
    stored_tensors,
)
from keras_mobileone.quantization.trace import Tensor, Trace

# Only tensors whose rounding causes at least this part of the error without limits are tried.
SMALLEST_SHARE = 0.02
# The maximum of a channel in an image is usual if it does not exceed this quantile over the images.
# Usual values are never limited.
USUAL = 0.75
FRACTIONS = (0.85, 0.7, 0.5, 0.35, 0.25)  # limits to try, as parts of the largest value
# A limit has to reduce the error by this part, since values of other images exceed it more often.
SMALLEST_GAIN = 0.01

State = list[Tensor]  # values for a batch, see `_Search._taken`
Segment = Callable[..., tuple[State, dict[str, Tensor]]]


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
    for candidate, (index, tensor) in enumerate(search.candidates):
        search.advance(candidate)
        maxima = search.best.maxima[index]
        usual, largest = np.quantile(maxima, USUAL, axis=0), maxima.max(0)
        for fraction in FRACTIONS:
            limit = np.maximum(usual, fraction * largest).astype(np.float32)
            effect = search.effect(candidate, limit)
            if effect.error > (1 - SMALLEST_GAIN) * search.best.error:
                break
            search.best, limits[id(tensor)] = effect, limit
        if id(tensor) in limits:
            search.apply(candidate, limits[id(tensor)])
    search.update_maxima()
    return limits


class _Search:
    """Computes the effects of limits.

    The candidates divide the calls into segments, each of which ends with the call that returns a
    candidate, or with the last call. What comes before the candidate to which the search has
    advanced is computed only once.

    Attributes:
        candidates: Outputs of ReLUs that an int8 file fuses with their convolution and whose
            rounding matters, in order, with their index among the stored tensors.
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
        fused: list[tuple[int, keras.KerasTensor]] = []
        for group, of_group in zip(groups, statistics, strict=True):
            stored = stored_tensors(trace, group)
            if stored[0] is not group.producer.output:
                fused.append((len(self._stored), stored[0]))
            for tensor, measured in zip(stored, of_group.tensors, strict=True):
                self._stored.append((tensor, group.channels(tensor), measured))
        self._outputs = before_saturation(trace)
        self._images = len(images)
        maxima = [measured.maxima for _, _, measured in self._stored]
        self.best = Effect(self._rounding_error(maxima), maxima)
        smallest = SMALLEST_SHARE * self.best.error
        self.candidates = sorted(
            [
                (i, t)
                for i, t in fused
                if self._rounding_of(self._stored[i][2], maxima[i]) > smallest
            ],
            key=lambda candidate: self._made_at[id(candidate[1])],
        )
        ends = [self._made_at[id(tensor)] + 1 for _, tensor in self.candidates]
        self._segments = list(pairwise([0, *ends, len(trace.calls)]))
        self._compiled: dict[int, Segment] = {}
        starts = range(0, len(images), BATCH_SIZE)
        self._states: list[State] = [[images[i : i + BATCH_SIZE]] for i in starts]  # of each batch
        self._position = 0  # the segment that takes the states
        every = range(len(self._segments)) if self.candidates else range(0)
        self._wanted = [self._run(state, every)[0] for state in self._states]  # without limits

    def _taken(self, start: int) -> list[int]:
        """Returns the ids of a state's tensors: those that later calls take, and outputs."""
        calls = self._trace.calls
        known = [*self._trace.model.inputs, *(t for call in calls[:start] for t in call.outputs)]
        needed = {id(t) for call in calls[start:] for t in call.inputs}
        needed |= {id(output) for output in self._outputs}
        return [id(tensor) for tensor in known if id(tensor) in needed]

    def _compile(self, segment: int, state: State) -> Segment:
        """Returns a function that computes the calls of a segment, for batches of any size.

        It returns the next state, and the maxima of the stored tensors that it computes, by their
        index.
        """
        import tensorflow as tf

        start, stop = self._segments[segment]
        taken, returned = self._taken(start), self._taken(stop)

        @tf.function
        def computed(*state: Tensor) -> tuple[State, dict[str, Tensor]]:
            values = dict(zip(taken, state, strict=True))
            self._trace.resume(values, range(start, stop))
            maxima = {
                str(index): image_maxima(values[id(tensor)][..., own])
                for index, (tensor, own, _) in enumerate(self._stored)
                if start <= self._made_at[id(tensor)] < stop
            }
            return [values[key] for key in returned], maxima

        shapes = [(None, *value.shape[1:]) if len(value.shape) else () for value in state]
        specs = (tf.TensorSpec(shape, v.dtype) for shape, v in zip(shapes, state, strict=True))
        return computed.get_concrete_function(*specs)

    def _run(self, state: State, segments: range) -> tuple[State, dict[int, Tensor]]:
        """Computes some of the segments for a batch."""
        maxima: dict[int, Tensor] = {}
        for index in segments:
            if index not in self._compiled:
                self._compiled[index] = self._compile(index, state)
            state, of_segment = self._compiled[index](*map(keras.ops.convert_to_tensor, state))
            maxima |= {int(key): value for key, value in of_segment.items()}
        return state, maxima

    def advance(self, candidate: int) -> None:
        """Computes all segments up to the one that returns a candidate."""
        segments = range(self._position, candidate + 1)
        for index, state in enumerate(self._states):
            self._states[index], _ = self._run(state, segments)
        self._position = candidate + 1

    def effect(self, candidate: int, limit: np.ndarray) -> Effect:
        """Returns the effect of a limit of the candidate to which the search has advanced."""
        error, parts = 0.0, []
        for state, wanted in zip(self._limited(candidate, limit), self._wanted, strict=True):
            outputs, of_batch = self._run(state, range(self._position, len(self._segments)))
            parts.append(of_batch)
            for got, reference in zip(outputs, wanted, strict=True):
                errors = np.asarray((got - reference) / standard_deviation(reference))
                error += float(np.square(errors).sum()) / self._images
        own, _ = self.candidates[candidate]
        maxima = list(self.best.maxima)
        maxima[own] = np.minimum(maxima[own], limit)
        for index in parts[0]:
            maxima[index] = np.concatenate([part[index] for part in parts])
        return Effect(error + self._rounding_error(maxima), maxima)

    def apply(self, candidate: int, limit: np.ndarray) -> None:
        """Limits the candidate to which the search has advanced in all that is computed later."""
        self._states = list(self._limited(candidate, limit))

    def update_maxima(self) -> None:
        """Replaces the maxima of the statistics by those under the best limits."""
        for (_, _, measured), maxima in zip(self._stored, self.best.maxima, strict=True):
            measured.maxima = maxima

    def _limited(self, candidate: int, limit: np.ndarray) -> Iterator[State]:
        """Returns the states that the candidate is a part of with its limited values."""
        _, tensor = self.candidates[candidate]
        place = self._taken(self._made_at[id(tensor)] + 1).index(id(tensor))
        for state in self._states:
            yield [*state[:place], keras.ops.minimum(state[place], limit), *state[place + 1 :]]

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
