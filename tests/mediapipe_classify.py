"""Runs MediaPipe's ImageClassifier in a separate environment: FILE.tflite… -- PHOTOGRAPH…

Prints JSON: for each file and photograph the [name, index, score] of the three best classes.
"""

import json
import sys

import mediapipe
from mediapipe.tasks.python import BaseOptions
from mediapipe.tasks.python.vision import ImageClassifier, ImageClassifierOptions

separator = sys.argv.index("--")
answers = []
for path in sys.argv[1:separator]:
    options = ImageClassifierOptions(BaseOptions(model_asset_path=path), max_results=3)
    with ImageClassifier.create_from_options(options) as classifier:
        results = [
            classifier.classify(mediapipe.Image.create_from_file(photograph))
            for photograph in sys.argv[separator + 1 :]
        ]
    answers.append(
        [
            [(c.category_name, c.index, c.score) for c in result.classifications[0].categories]
            for result in results
        ]
    )
print(json.dumps(answers))
