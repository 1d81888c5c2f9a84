package io.github.kerasmobileone.engine.bytedeco

import io.github.kerasmobileone.core.TensorInfo
import io.github.kerasmobileone.core.TensorType
import org.bytedeco.tensorflowlite.TfLiteTensor
import org.bytedeco.tensorflowlite.global.tensorflowlite

private val TYPES = mapOf(
    tensorflowlite.kTfLiteFloat32 to TensorType.FLOAT32,
    tensorflowlite.kTfLiteFloat16 to TensorType.FLOAT16,
    tensorflowlite.kTfLiteInt32 to TensorType.INT32,
    tensorflowlite.kTfLiteUInt8 to TensorType.UINT8,
    tensorflowlite.kTfLiteInt64 to TensorType.INT64,
    tensorflowlite.kTfLiteInt16 to TensorType.INT16,
    tensorflowlite.kTfLiteInt8 to TensorType.INT8,
    tensorflowlite.kTfLiteBool to TensorType.BOOL,
    tensorflowlite.kTfLiteString to TensorType.STRING,
)

/** Describes an input or output of an interpreter whose tensors are allocated. */
internal fun describe(tensor: TfLiteTensor): TensorInfo {
    val quantization = tensorflowlite.TfLiteTensorQuantizationParams(tensor)
    return TensorInfo(
        name = tensorflowlite.TfLiteTensorName(tensor)?.string.orEmpty(),
        shape = List(tensorflowlite.TfLiteTensorNumDims(tensor)) { tensorflowlite.TfLiteTensorDim(tensor, it) },
        type = TYPES[tensorflowlite.TfLiteTensorType(tensor)] ?: TensorType.OTHER,
        scale = quantization.scale(),
        zeroPoint = quantization.zero_point(),
    )
}
