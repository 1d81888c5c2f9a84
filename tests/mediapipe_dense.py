"""Runs MediaPipe's tasks in a separate environment: segment|detect FILE PHOTOGRAPH RESULT.npz.

Each process runs one file, since several tasks in one process may not finish.
"""

import os
import sys

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

task, path, photograph, result = sys.argv[1:]
image = mediapipe.Image.create_from_file(photograph)
base = BaseOptions(model_asset_path=path)
if task == "segment":
    options = vision.ImageSegmenterOptions(
        base, output_category_mask=True, output_confidence_masks=True
    )
    with vision.ImageSegmenter.create_from_options(options) as segmenter:
        found = segmenter.segment(image)
        np.savez(
            result,
            mask=np.squeeze(found.category_mask.numpy_view()),
            confidence=np.stack(
                [np.squeeze(mask.numpy_view()) for mask in found.confidence_masks], -1
            ),
            labels=segmenter.labels,
        )
else:
    options = vision.ObjectDetectorOptions(base, max_results=100, score_threshold=0.05)
    with vision.ObjectDetector.create_from_options(options) as detector:
        detections = detector.detect(image).detections
        boxes = [
            (b.origin_x, b.origin_y, b.origin_x + b.width, b.origin_y + b.height)
            for b in (detection.bounding_box for detection in detections)
        ]
        np.savez(
            result,
            boxes=np.array(boxes).reshape(-1, 4),
            names=[detection.categories[0].category_name for detection in detections],
            scores=[detection.categories[0].score for detection in detections],
        )
sys.stdout.flush()
os._exit(0)  # closing a task may hang
