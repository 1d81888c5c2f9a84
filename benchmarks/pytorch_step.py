"""Worker of train_step.py for the authors' PyTorch code, without an import of TensorFlow.

    python pytorch_step.py mobileone.py VARIANT BATCH SIZE STEPS

Like the other workers it normalizes the images, takes one step of SGD with the paper's recipe and
updates the moving averages of all weights. It answers each line of its input with the seconds of a
step.
"""

import importlib.util
import sys
from typing import Any

import numpy as np
import torch
from turns import serve

DECAY = 0.9995  # decay of the moving averages
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def main() -> Any:
    """Serves rounds of steps until the input ends."""
    code, variant, *sizes = sys.argv[1:]
    batch, size, steps = map(int, sizes)
    network = load(code).mobileone(variant=variant).train()
    averages = [value.detach().clone() for value in network.state_dict().values()]
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (batch, 3, size, size), np.uint8))
    labels = torch.from_numpy(rng.integers(0, 1000, batch))

    def step() -> Any:
        loss = criterion(network((images / 255 - MEAN) / STD), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for average, value in zip(averages, network.state_dict().values(), strict=True):
                if average.is_floating_point():  # skips the count of batches
                    average.lerp_(value, 1 - DECAY)
        return loss.item()

    serve(step, steps, torch=torch.__version__, threads=torch.get_num_threads())


def load(path: str) -> Any:
    """Returns the module in a file."""
    spec = importlib.util.spec_from_file_location("authors", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
