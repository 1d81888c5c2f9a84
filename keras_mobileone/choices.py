"""The values that options accept, and the defaults that the command line shows.

They are separate from the code that uses them, so that `keras-mobileone COMMAND --help` can list
them without importing Keras.
"""

# What a network computes: one label, a label for each pixel, or boxes.
TASKS = ("classify", "segment", "detect")

# Precisions of `export_tflite`, and those of them that need calibration images.
PRECISIONS = ("float32", "float16", "int8-dynamic", "int8", "int16x8")
INTEGER = ("int8", "int16x8")
# The precisions that `deploy` exports, which are also those of the networks in a comparison.
DEPLOY_PRECISIONS = ("float32", "float16", "int8")
# Types of the input and the output of a TFLite file.
INTEGER_TYPES = ("float32", "int8", "uint8")

# Precisions of the formats other than TFLite and Core ML, whose default is the first.
FORMAT_PRECISIONS = {
    "onnx": ("float32",),
    "openvino": ("float32", "float16"),
    "saved_model": ("float32",),
}

# Core ML: the precisions of weights and arithmetic, and the oldest systems that read a package.
COMPUTE_PRECISIONS = ("float16", "float32")
DEPLOYMENT_TARGETS = ("iOS15", "iOS16", "iOS17", "iOS18")
# Compression of the weights, which needs a package for iOS16 or newer. Fewer than 8 bits are not
# offered: with 6 bits the logits of S0 have a correlation of 0.8 with those of float weights, and
# with 4 bits no correlation.
COMPRESSIONS = ("linear8", "palette8")

# Test sets of `evaluate --benchmark`, and the one whose images are corrupted.
CORRUPTED = "imagenet-c"
BENCHMARKS = (
    *("imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-v2", "imagenet-real"),
    CORRUPTED,
)

# Latency benchmarks: the number of rounds over all files, and the processors of an Android device:
# those of the native tool, and those of the app, which name the precision of the GPU's arithmetic.
ROUNDS = 5
DELEGATES = ("cpu", "gpu")
ACCELERATORS = ("cpu", "gpu-fp16", "gpu-fp32", "nnapi")
COOL_DOWN = 5.0  # seconds of rest before each process on a device

SAVE_EVERY = 500  # training steps between two checkpoints

DENSE_FORMATS = ("masks", "voc", "coco", "yolo")  # of images with masks or boxes
