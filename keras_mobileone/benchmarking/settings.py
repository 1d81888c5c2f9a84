"""What a target is told, and the error for a target that fails as a whole."""

from dataclasses import dataclass

from keras_mobileone.errors import MeasurementError


@dataclass(frozen=True)
class Settings:
    """How one round of one file is run.

    Attributes:
        threads: CPU threads.
        runs: Timed inferences.
        warmup_runs: Inferences before them.
    """

    threads: int
    runs: int
    warmup_runs: int

    def conditions(self) -> dict[str, int]:
        """As a result records them."""
        return {
            "threads": self.threads,
            "runs": self.runs,
            "warmup_runs": self.warmup_runs,
            "batch": 1,
        }


class TargetError(MeasurementError):
    """No file can be measured any more: there is no device, it went away, a tool is missing."""
