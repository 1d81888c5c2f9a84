"""Devices and machines, and the share of a step that each of them computes."""

import hashlib
import json
import os
import re
import socket
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np

from keras_mobileone.errors import InputValueError, first_line

SERVICE_PREFIX = "grpc://"
SERVICE_TIMEOUT = 10  # seconds to reach the service
# Names of the errors that TensorFlow (2.21) raises on the remaining machines. Which one it raises
# depends on whether a collective, the connection or the heartbeat failed first.
_LOST = (
    "UnavailableError",
    "AbortedError",
    "CancelledError",
    "DeadlineExceededError",
    "FailedPreconditionError",
)


class Devices:
    """The devices of this machine, and its index among several machines.

    On TensorFlow, the strategy is `MultiWorkerMirroredStrategy` if workers are given or `TF_CONFIG`
    is set, `MirroredStrategy` if this machine has several GPUs, and a single device otherwise. On
    JAX, it is `keras.distribution.DataParallel` over all devices of this machine.

    Args:
        workers: Addresses `host:port` of all machines, in the same order on each of them.
            `TF_CONFIG` is set from them.
        index: Index of this machine in `workers`.
        strategy: A `tf.distribute.Strategy` to use instead.

    Attributes:
        workers: Number of machines.
        worker: Index of this machine, counted from 0.
        replicas: Number of devices on all machines together.

    Raises:
        ValueError: If the index is out of range, if several machines are given and the backend is
            not TensorFlow, or if devices have been used before the machines are given.
        ConnectionError: If this machine can't open its port, or the other machines can't be
            reached.

    With several machines, the constructor waits until all of them have started, for an hour at
    most.
    """

    def __init__(
        self, workers: tuple[str, ...] = (), index: int | None = None, strategy: Any = None
    ) -> None:
        backend = keras.backend.backend()
        if workers and backend != "tensorflow":
            raise InputValueError(
                "Several machines need the TensorFlow backend. Received: the Keras backend "
                f"{backend!r}. Set KERAS_BACKEND=tensorflow."
            )
        if workers:
            _set_tf_config(workers, index)
        elif index is not None:
            raise InputValueError(
                f"`index` is the index of this machine in `workers`. Received: index={index} "
                "without workers. List all machines with --workers host:port,host:port."
            )
        self.strategy: Any = None
        self.workers, self.worker, self.replicas = 1, 0, 1
        if backend == "tensorflow":
            self.strategy = strategy or _tensorflow_strategy()
            self.replicas = self.strategy.num_replicas_in_sync
            cluster = self.strategy.cluster_resolver
            if cluster is not None and cluster.task_type:
                self.workers = len(cluster.cluster_spec().as_dict()["worker"])
                self.worker = cluster.task_id
        elif backend == "jax" and len(keras.distribution.list_devices()) > 1:
            keras.distribution.set_distribution(keras.distribution.DataParallel())
            self.replicas = len(keras.distribution.list_devices())

    @property
    def chief(self) -> bool:
        """Whether this machine writes the files and prints."""
        return self.worker == 0

    @property
    def synchronized(self) -> bool:
        """Whether BatchNorm must gather its statistics itself. On JAX they are always global."""
        return self.strategy is not None and self.replicas > 1

    def scope(self) -> Any:
        """Returns the context in which variables must be created."""
        return nullcontext() if self.strategy is None else self.strategy.scope()

    def share(self, global_batch: int) -> int:
        """Returns the number of images of a step for each device.

        Raises:
            ValueError: If the batch can't be divided equally.
        """
        if global_batch % self.replicas:
            raise InputValueError(
                f"Expected a batch size that {self.replicas} devices can share equally. "
                f"Received: batch_size={global_batch}. Change it with --set batch_size=N."
            )
        return global_batch // self.replicas

    def distribute(self, batches: Callable[[int], object], global_batch: int) -> Any:
        """Returns the dataset for `fit` from a function that makes the batches of one pipeline.

        Args:
            batches: Function that takes the size of a batch and returns the `tf.data.Dataset` of
                this machine.
            global_batch: Number of images of a step over all devices.
        """
        if self.strategy is None:
            return batches(global_batch)
        return self.strategy.distribute_datasets_from_function(
            lambda context: batches(context.get_per_replica_batch_size(global_batch))
        )

    def from_chief(self, array: np.ndarray) -> np.ndarray:
        """Returns the chief's value of an array that has the same shape on every machine."""
        if self.workers == 1 or self.strategy is None:
            return array
        import tensorflow as tf

        def contribution() -> Any:
            replica = tf.distribute.get_replica_context()
            first = replica.replica_id_in_sync_group == 0
            value = tf.where(first, array, tf.zeros_like(array))
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, value)

        results = tf.function(lambda: self.strategy.run(contribution))()
        return self.strategy.experimental_local_results(results)[0].numpy()

    def require_same(self, work: str, name: str) -> None:
        """Raises ValueError unless `work`, called `name` in messages, equals that of the chief."""
        if self.workers == 1:
            return
        digest = np.frombuffer(hashlib.sha256(work.encode()).digest(), np.int32)
        if (self.from_chief(digest) != digest).any():
            raise InputValueError(
                f"Expected the same {name} on all machines. Received: different ones on machine "
                f"{self.worker} and machine 0. Start the same command on all of them, with copies "
                "of the same data."
            )


def lost_machine(error: Exception, devices: Devices) -> str | None:
    """Returns a message about a lost machine, or None if TensorFlow's `error` has another cause."""
    text = str(error)
    aborted = type(error).__name__ in _LOST or "Collective ops is aborted" in text
    if devices.workers == 1 or not aborted:
        return None
    named = sorted({int(number) for number in re.findall(r"/task:(\d+)", text)} - {devices.worker})
    lost = f"machine {named[0]}" if len(named) == 1 else "another machine"
    return (
        f"The connection to {lost} of this training was lost, so machine {devices.worker} stops. "
        "Start the same command with --resume on all of them."
    )


def serve(batches: Any, service: str) -> Any:
    """Returns the batches that the workers of a tf.data service make, in any order.

    Each worker of the service makes the batches of a different pass over the images, and every
    image occurs once in a pass. With one worker the order is that of `batches`; with several
    workers, passes overlap. The files must have the same paths on the machines of the service.

    Args:
        batches: `tf.data.Dataset` made by `training_batches`.
        service: Address of the dispatcher, `grpc://host:port`.
    """
    import tensorflow as tf

    distribute = tf.data.experimental.service.distribute(
        tf.data.experimental.service.ShardingPolicy.DYNAMIC, service
    )
    return batches.apply(distribute).prefetch(tf.data.AUTOTUNE)


def check_service(service: str | None, skip_bad: bool) -> None:
    """Raises an error unless `service` is None or a tf.data service that answers.

    Raises:
        ValueError: If `service` is not an address, or if broken images are to be skipped, which is
            only possible in this process.
        ConnectionError: If the service does not answer.
    """
    if service is None:
        return
    if skip_bad:
        raise InputValueError(
            "`skip_bad` needs the images to be decoded in this process. Received: skip_bad=True "
            f"with data_service={service!r}. Omit one of them."
        )
    host, _, port = service.removeprefix(SERVICE_PREFIX).rpartition(":")
    if not service.startswith(SERVICE_PREFIX) or not host or not port.isdigit():
        raise InputValueError(
            f"Expected `data_service` as grpc://host:port. Received: {service!r}."
        )
    try:
        socket.create_connection((host, int(port)), SERVICE_TIMEOUT).close()
    except OSError as error:
        raise ConnectionError(
            f"Expected a tf.data service. Received: {service}, where nothing answers ({error}). "
            "Start its dispatcher first."
        ) from error


def _set_tf_config(workers: tuple[str, ...], index: Any) -> None:
    if index is None or not 0 <= index < len(workers):
        raise InputValueError(
            f"Expected `index` from 0 to {len(workers) - 1}, the place of this machine in "
            f"`workers`. Received: index={index}."
        )
    for address in workers:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise InputValueError(f"Expected `workers` as host:port. Received: {address!r}.")
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": list(workers)}, "task": {"type": "worker", "index": index}}
    )


def _tensorflow_strategy() -> Any:
    import tensorflow as tf

    if os.environ.get("TF_CONFIG"):
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise InputValueError(
                f"The machines must be given before TensorFlow is used in this process ({error})."
            ) from error
        except tf.errors.OpError as error:
            raise ConnectionError(
                "Expected to open the port of this machine and to reach the others. Received: "
                f"TF_CONFIG={os.environ['TF_CONFIG']} ({first_line(error)}). Check the addresses, "
                "and that no earlier run is still active on any of them."
            ) from error
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()
