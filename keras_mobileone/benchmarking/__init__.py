"""Latency of TFLite files, measured by one protocol on this machine or an Android device."""

from keras_mobileone.benchmarking.android import AndroidDevice
from keras_mobileone.benchmarking.android_app import AndroidApp, benchmark_with_app
from keras_mobileone.benchmarking.local import ThisMachine, processor_name
from keras_mobileone.benchmarking.protocol import WARMUP_RUNS, benchmark
from keras_mobileone.benchmarking.results import (
    Benchmark,
    Failure,
    Latency,
    Round,
    load_benchmark,
    ratio,
    round_ratios,
)
from keras_mobileone.choices import ROUNDS

__all__ = [
    "ROUNDS",
    "WARMUP_RUNS",
    "AndroidApp",
    "AndroidDevice",
    "Benchmark",
    "Failure",
    "Latency",
    "Round",
    "ThisMachine",
    "benchmark",
    "benchmark_with_app",
    "load_benchmark",
    "processor_name",
    "ratio",
    "round_ratios",
]
