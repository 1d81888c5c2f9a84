"""The convolutions of the heads for segmentation and detection."""

from typing import Any

from keras_mobileone.layers.block import PlainBlock

Tensor = Any  # a symbolic tensor of Keras


class HeadLayers:
    """Makes the convolutions of a head: with batch normalization, or with it folded.

    Args:
        deploy: Whether the normalization is folded, so that there is none.
        synchronized: Whether to compute batch statistics over all replicas.
        dtype: Dtype policy of the layers.
    """

    def __init__(self, deploy: bool, synchronized: bool, dtype: Any) -> None:
        self.dtype = dtype
        self._settings = {
            "normalized": not deploy,
            "synchronized": synchronized,
            "activation": "relu",
            "dtype": dtype,
        }

    def conv(self, x: Tensor, name: str, filters: int, size: int = 1, rate: int = 1) -> Tensor:
        """Applies a convolution, batch normalization and ReLU."""
        block = PlainBlock(name, filters, size, 1, False, dilation_rate=rate, **self._settings)
        return block(x)

    def depthwise(self, x: Tensor, name: str, strides: int = 1, rate: int = 1) -> Tensor:
        """Applies a depthwise 3×3 convolution, batch normalization and ReLU."""
        shape = x.shape[-1], 3, strides
        return PlainBlock(name, *shape, True, dilation_rate=rate, **self._settings)(x)

    def separable(
        self, x: Tensor, name: str, filters: int, strides: int = 1, rate: int = 1
    ) -> Tensor:
        """Applies a depthwise and a 1×1 convolution, both with batch normalization and ReLU."""
        x = self.depthwise(x, f"{name}_depthwise", strides, rate)
        return self.conv(x, f"{name}_pointwise", filters)
