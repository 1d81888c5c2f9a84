"""Non-maximum suppression with Keras' operations, which Keras itself does not have."""

from typing import Any

from keras import ops
from keras.utils import bounding_boxes

Tensor = Any  # a tensor of Keras' backend, or an array


def suppress(boxes: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Keeps each box that no better box of its group overlaps by more than a threshold.

    This is the greedy algorithm: the best box is kept and removes the boxes that it overlaps, then
    the best of the remaining ones, and so on. It is computed for all boxes at once, by removing the
    boxes that the currently kept ones overlap until nothing changes. After n rounds the first n
    decisions are final, and usually a few rounds suffice.

    Args:
        boxes: Shape (batch, count, 4) in the format xyxy, the best first.
        groups: Group of each box, such as its class, shape (batch, count). Boxes of different
            groups do not affect each other.
        iou_threshold: Largest overlap (intersection over union) of two kept boxes of a group.

    Returns:
        Which boxes are kept, bool, shape (batch, count).
    """
    count = ops.shape(boxes)[1]
    index = ops.arange(count)
    rivals = bounding_boxes.compute_iou(boxes, boxes, "xyxy") > iou_threshold
    same = ops.expand_dims(groups, 2) == ops.expand_dims(groups, 1)
    better = ops.expand_dims(index, 1) < ops.expand_dims(index, 0)
    removes = ops.cast(ops.logical_and(ops.logical_and(rivals, same), better[None]), "float32")

    def changing(kept: Tensor, changed: Tensor) -> Tensor:
        return changed

    def once(kept: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
        hits = ops.matmul(ops.expand_dims(kept, 1), removes)[:, 0]
        updated = ops.cast(hits < 0.5, "float32")
        return updated, ops.any(updated != kept)

    everything = ops.ones_like(removes[:, 0])
    kept, _ = ops.while_loop(changing, once, (everything, ops.convert_to_tensor(True)))
    return kept > 0.5
