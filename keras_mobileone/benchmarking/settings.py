"""Settings of a round, and the error for a target that can't measure any file."""

from dataclasses import dataclass

from keras_mobileone.errors import MeasurementError


@dataclass(frozen=True)
class Settings:
    """Settings with which a target runs a round of a file.

    Attributes:
        threads: Number of CPU threads.
        runs: Number of timed inferences.
        warmup_runs: Number of inferences before the timed ones.
    """

    threads: int
    runs: int
    warmup_runs: int

    def conditions(self) -> dict[str, int]:
        """Returns the settings in the form that a result records."""
        return {
            "threads": self.threads,
            "runs": self.runs,
            "warmup_runs": self.warmup_runs,
            "batch": 1,
        }


class TargetError(MeasurementError):
    """The target can't measure any file: no device, a lost connection, or a missing tool."""
