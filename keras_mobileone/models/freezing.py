"""Freezes the batch normalization of a model for fine-tuning."""

import keras

from keras_mobileone.compat import flatten_layers


def freeze_batch_norm(model: keras.Model) -> int:
    """Freezes every batch normalization of a model, including those inside `MobileOneBlock`s.

    A frozen batch normalization uses its moving statistics also in training, and does not update
    them, gamma or beta. All other layers stay as they are. The usual loop over `model.layers` does
    not reach the normalization layers of a train-time MobileOne, since each of them belongs to a
    branch inside a block.

    Call `compile` afterwards, as after every change of `trainable`. A block with frozen
    normalization trains branch by branch instead of through one convolution, which is slower.

    Args:
        model: Any Keras model. It is changed in place.

    Returns:
        The number of batch normalization layers, which is 0 for a fused model.

    Examples:
        >>> model = keras_mobileone.MobileOneS0(weights=None, input_shape=(64, 64, 3))
        >>> keras_mobileone.freeze_batch_norm(model)
        226
        >>> fused = keras_mobileone.MobileOneS0(weights=None, input_shape=(64, 64, 3), deploy=True)
        >>> keras_mobileone.freeze_batch_norm(fused)
        0
    """
    norms = [
        layer
        for layer in flatten_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for norm in norms:
        norm.trainable = False
    return len(norms)
