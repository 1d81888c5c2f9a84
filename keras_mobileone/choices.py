"""The values that options accept, and the defaults that the command line shows.

They stand apart from the code that they steer, so that `keras-mobileone COMMAND --help` can list
them without importing Keras.
"""

# Precisions of `export_tflite`, and those of them that need calibration images.
PRECISIONS = ("float32", "float16", "int8-dynamic", "int8", "int16x8")
INTEGER = ("int8", "int16x8")
# The three that `deploy` exports, and in which the networks of a comparison can be made.
DEPLOY_PRECISIONS = ("float32", "float16", "int8")
# Types that the input and the output of a TFLite file can have.
INTEGER_TYPES = ("float32", "int8", "uint8")

# Core ML: precision of weights and arithmetic, and the oldest system that reads a package.
COMPUTE_PRECISIONS = ("float16", "float32")
DEPLOYMENT_TARGETS = ("iOS15", "iOS16", "iOS17", "iOS18")
# Compression of the weights, which packages for iOS16 and newer can hold. Fewer bits than 8 are not
# offered: with 6 the logits of S0 correlate by 0.8 with those of float weights, with 4 not at all.
COMPRESSIONS = ("linear8", "palette8")

# Benchmarks: rounds over all files, and what an Android device runs a file on: the native tool, and
# the app, which names the precision of the GPU's arithmetic.
ROUNDS = 5
DELEGATES = ("cpu", "gpu")
ACCELERATORS = ("cpu", "gpu-fp16", "gpu-fp32", "nnapi")
COOL_DOWN = 5.0  # seconds of rest before each process on a device

SAVE_EVERY = 500  # training steps between two checkpoints
