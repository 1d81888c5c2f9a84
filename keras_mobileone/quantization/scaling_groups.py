"""Finds the channels that can be rescaled without changing the outputs of the model.

A positive factor of a channel passes through ReLU, padding, pooling, resizing, the multiplication
by a gate, and a concatenation of channels, behind which the channel has another index. If output
channel i of a convolution is divided by t_i, and input channel i of every layer that takes it is
multiplied by t_i, the outputs of the model do not change, as long as each path from the convolution
ends in a layer that can absorb the factor.
"""

from dataclasses import dataclass, field

import keras
from keras import layers

from keras_mobileone.quantization.trace import Call, Tensor, Trace, is_linear

# Layers that pass a positive factor of a channel through.
HOMOGENEOUS_LAYERS = (
    layers.Identity,
    layers.Dropout,
    layers.ZeroPadding2D,
    layers.Cropping2D,
    layers.CenterCrop,
    layers.Resizing,
    layers.LeakyReLU,
    layers.PReLU,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling2D,
    layers.AveragePooling2D,
    layers.MaxPooling2D,
    layers.UpSampling2D,
)
HOMOGENEOUS_ACTIVATIONS = (keras.activations.relu, keras.activations.leaky_relu)


@dataclass(frozen=True)
class ScalingGroup:
    """A convolution, the tensors that carry its channels, and the layers that absorb a factor.

    Attributes:
        producer: Call of the convolution, whose output channels can be divided.
        calls: Calls that pass the factor on, in order.
        absorbers: Calls of the convolutions and dense layers that absorb the factor.
        starts: Index of the first of the channels in each tensor behind a concatenation, by the id
            of the symbolic tensor; 0 in all others.
    """

    producer: Call
    calls: list[Call]
    absorbers: list[Call]
    starts: dict[int, int] = field(default_factory=dict)

    def channels(self, tensor: Tensor) -> slice:
        """Returns which channels of a tensor are those of the convolution."""
        start = self.starts.get(id(tensor), 0)
        return slice(start, start + self.producer.output.shape[-1])

    @property
    def pooled(self) -> bool:
        """Whether the channels are averaged over the image before they are absorbed."""
        return any(isinstance(call.layer, layers.GlobalAveragePooling2D) for call in self.calls)

    @property
    def name(self) -> str:
        """Names of the convolution and its absorbers, for messages."""
        return f"{self.producer.layer.name} → {', '.join(c.layer.name for c in self.absorbers)}"


@dataclass(frozen=True)
class Blocked:
    """A convolution whose channels cannot be rescaled.

    Attributes:
        name: Name of the layer.
        reason: Reason why the channels cannot be rescaled.
    """

    name: str
    reason: str


def find_scaling_groups(trace: Trace) -> tuple[list[ScalingGroup], list[Blocked]]:
    """Finds the scaling groups of a model in order, and the convolutions without a group."""
    groups: list[ScalingGroup] = []
    blocked: list[Blocked] = []
    for call in trace.calls:
        if call.is_linear:
            found = _scaling_group(trace, call)
            if isinstance(found, Blocked):
                blocked.append(found)
            else:
                groups.append(found)
    while True:
        kept, lonely = _without_lonely(groups)
        if not lonely:
            return groups, blocked
        groups, blocked = kept, blocked + lonely


def _without_lonely(groups: list[ScalingGroup]) -> tuple[list[ScalingGroup], list[Blocked]]:
    """Separates the groups that share a concatenation with channels that cannot be rescaled.

    The tensors of a concatenation have one integer range. A group that were rescaled to its own
    range would be small in that of the others.
    """
    rescaled = {id(c.output) for group in groups for c in (group.producer, *group.calls)}
    kept, lonely = list[ScalingGroup](), list[Blocked]()
    for group in groups:
        joins = [call for call in group.calls if joins_channels(call)]
        alone = [c for c in joins if any(id(tensor) not in rescaled for tensor in c.inputs)]
        if alone:
            reason = f"{alone[0].layer.name} also joins channels that cannot be rescaled"
            lonely.append(Blocked(group.producer.layer.name, reason))
        else:
            kept.append(group)
    return kept, lonely


def _scaling_group(trace: Trace, producer: Call) -> ScalingGroup | Blocked:
    name = producer.layer.name
    if trace.times_called(producer.layer) > 1:
        return Blocked(name, "it is called more than once")
    inside, calls, absorbers = [producer.output], list[Call](), list[Call]()
    starts: dict[int, int] = {}
    for tensor in inside:  # the list grows during the loop
        if any(tensor is output for output in trace.model.outputs):
            return Blocked(name, "its channels are an output of the model")
        for call in trace.consumers(tensor):
            if any(call is known for known in calls):
                return Blocked(name, f"both inputs of {call.layer.name} carry its channels")
            if absorbs(call) and trace.times_called(call.layer) == 1:
                absorbers.append(call)
            elif joins_channels(call) or (
                passes_factors(call) and call.output.shape[-1] == tensor.shape[-1]
            ):
                calls.append(call)
                inside.append(call.output)
                before = channels_before(call, tensor) if joins_channels(call) else 0
                starts[id(call.output)] = starts.get(id(tensor), 0) + before
            else:
                return Blocked(name, f"{call.layer.name} does not pass a factor through")
    return ScalingGroup(producer, calls, absorbers, starts)


def absorbs(call: Call) -> bool:
    """Returns whether the kernel of a layer can absorb a factor of an input channel."""
    return call.is_linear and getattr(call.layer, "groups", 1) == 1


def joins_channels(call: Call) -> bool:
    """Returns whether a layer concatenates channels, each tensor once."""
    layer, inputs = call.layer, call.inputs
    last = isinstance(layer, layers.Concatenate) and layer.axis in (-1, len(inputs[0].shape) - 1)
    return last and len({id(tensor) for tensor in inputs}) == len(inputs)


def channels_before(call: Call, tensor: Tensor) -> int:
    """Returns how many channels a concatenation puts before those of a tensor."""
    position = next(i for i, other in enumerate(call.inputs) if other is tensor)
    return sum(other.shape[-1] for other in call.inputs[:position])


def passes_factors(call: Call) -> bool:
    """Returns whether a layer passes a positive factor of an input channel to its output."""
    layer = call.layer
    if isinstance(layer, layers.Multiply):
        return len(call.inputs) == 2
    if isinstance(layer, layers.Activation):
        return is_linear(layer.activation) or layer.activation in HOMOGENEOUS_ACTIVATIONS
    if isinstance(layer, layers.ReLU):
        return layer.max_value is None and not layer.threshold
    return isinstance(layer, HOMOGENEOUS_LAYERS)


def is_relu(layer: keras.Layer) -> bool:
    """Returns whether a layer is a ReLU without slope, threshold and upper limit."""
    if isinstance(layer, layers.ReLU):
        return layer.max_value is None and not layer.threshold and not layer.negative_slope
    return isinstance(layer, layers.Activation) and layer.activation is keras.activations.relu
