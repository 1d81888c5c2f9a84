"""Runs a TFLite file on images one by one, as the same script on x86 and on arm64.

    python run_litert.py MODEL.tflite INPUTS.npy OUTPUTS.npy

INPUTS are float32 (images, height, width, 3), and OUTPUTS are float32 (images, classes). The script
prints a description of the machine as JSON. It needs only NumPy and ai-edge-litert.
"""

import json
import platform
import sys
from importlib.metadata import version

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main(model: str, inputs: str, outputs: str) -> None:
    """Writes the outputs of a model with one input and one output."""
    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    logits = []
    for image in np.load(inputs):
        interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        logits.append(interpreter.get_tensor(target)[0])
    np.save(outputs, np.stack(logits))
    conditions = {"machine": platform.machine(), "python": platform.python_version()}
    conditions |= {name: version(name) for name in ("numpy", "ai-edge-litert")}
    print(json.dumps(conditions))


if __name__ == "__main__":
    main(*sys.argv[1:])
