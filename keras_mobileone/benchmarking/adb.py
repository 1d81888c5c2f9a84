"""adb: selects a device, runs commands on it and explains its errors.

Formats: `adb devices` as `list_transports` and `to_string(ConnectionState)` print it (AOSP
packages/modules/adb, transport.cpp and adb.cpp); error messages as in acquire_one_transport
(transport.cpp) and file_sync_client.cpp; refused installations as in PackageManager.java
(installStatusToString) and adb_install.cpp.
"""

import contextlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from keras_mobileone.benchmarking.settings import TargetError
from keras_mobileone.errors import MeasurementError

SECONDS = 60  # limit for a command that only queries
PUSH_SECONDS = 600
Process = subprocess.CompletedProcess[str]
# Messages of adb itself, as opposed to those of a program on the device.
LOST = re.compile(
    r"^(?:adb|error): (?:error: )?"
    r"(no devices|device .*not found|device offline|device unauthorized|device still|closed"
    r"|protocol fault|failed to get feature set|connect failed)",
    re.MULTILINE,
)
STATES = {
    "unauthorized": "Unlock it and confirm the dialog that asks whether to trust this computer.",
    "authorizing": "Wait a moment and try again.",
    "connecting": "Wait a moment and try again.",
    "offline": "Reconnect it, or run `adb kill-server`.",
    "no permissions": "Add a udev rule for it, or run `adb kill-server` and start adb as its user.",
}
# What to do when Android refuses to install an app, by the beginning of its code.
REFUSALS = {
    "INSTALL_FAILED_UPDATE_INCOMPATIBLE": "Run `adb uninstall` for it, since it is signed by "
    "another key, and install it again.",
    "INSTALL_FAILED_VERSION_DOWNGRADE": "Run `adb uninstall` for it, since it is newer there.",
    "INSTALL_FAILED_INSUFFICIENT_STORAGE": "Free some space under /data.",
    "INSTALL_FAILED_OLDER_SDK": "Use a device with a newer Android.",
    "INSTALL_FAILED_NO_MATCHING_ABIS": "Give an APK with libraries for its processor.",
    "INSTALL_FAILED_USER_RESTRICTED": "Allow installation over USB in its developer options.",
    "INSTALL_FAILED_VERIFICATION": "Confirm the dialog on its screen.",
    "INSTALL_FAILED_ABORTED": "Confirm the dialog on its screen.",
    "INSTALL_PARSE_FAILED": "Build the APK again; it is damaged or not signed.",
    "INSTALL_FAILED_INVALID_APK": "Build the APK again; it is damaged.",
}
REFUSAL = re.compile(r"Failure \[(INSTALL_\w+)")


class Adb:
    """A connected Android device.

    Args:
        serial: Serial of the device as `adb devices` prints it. By default, the only connected
            device.

    Attributes:
        serial: Serial of the device.

    Raises:
        TargetError: If adb is missing, or if the device is not connected or not ready.
    """

    def __init__(self, serial: str | None = None):
        executable = shutil.which("adb")
        if executable is None:
            raise TargetError(
                "Expected the command adb on PATH. Received: no such command. Install Android's "
                "platform-tools."
            )
        self._executable = executable
        self.serial = ""  # empty for the first command, which lists all devices
        listing = self._run(["devices"], SECONDS)
        if listing.returncode:
            raise TargetError(f"adb can't list the devices: {_last_line(listing)}.")
        self.serial = choose(parse_devices(listing.stdout), serial)

    def shell(self, command: Sequence[str], seconds: float = SECONDS) -> Process:
        """Runs a program on the device.

        Args:
            command: Program and arguments. They are quoted for the device's shell.
            seconds: Time limit.

        Returns:
            The finished process, whose `returncode` is that of the program on the device.

        Raises:
            TargetError: If the device is disconnected or does not answer in time.
        """
        process = self._run(["shell", shlex.join(command)], seconds)
        self._require_connection(process)
        return process

    def push(self, source: Path, target: str) -> None:
        """Copies a file to the device.

        Raises:
            RuntimeError: If the device has no space for the file, or refuses it.
            TargetError: If the device is disconnected.
        """
        self._copy(["push", str(source), target], source)

    def pull(self, source: str, target: Path) -> None:
        """Copies a file from the device.

        Raises:
            RuntimeError: If the file can't be copied.
            TargetError: If the device is disconnected.
        """
        self._copy(["pull", source, str(target)], source)

    def install(self, apk: Path) -> None:
        """Installs an app, over an older version if there is one.

        Raises:
            TargetError: If the device is disconnected or refuses the app.
        """
        process = self._run(["install", "-r", str(apk)], PUSH_SECONDS)
        self._require_connection(process)
        output = process.stdout + process.stderr
        # Android 7's adb ends with 0 although the device has refused the app.
        refused = REFUSAL.search(output)
        if not process.returncode and not refused:
            return
        code = refused[1] if refused else _last_line(process)
        remedies = (remedy for start, remedy in REFUSALS.items() if code.startswith(start))
        raise TargetError(
            f"Expected device {self.serial} to install {apk}. Received: {code}. "
            f"{next(remedies, 'Install it by hand to see why.')}"
        )

    def reverse(self, port: int) -> None:
        """Lets the device reach a port of this machine as a port of its own.

        Raises:
            TargetError: If the device refuses it or is disconnected.
        """
        process = self._run(["reverse", f"tcp:{port}", f"tcp:{port}"], SECONDS)
        self._require_connection(process)
        if process.returncode:
            raise TargetError(
                f"Expected device {self.serial} to forward port {port}. Received: "
                f"{_last_line(process)}. Pass another port with --port."
            )

    def remove_reverse(self, port: int) -> None:
        """Undoes `reverse`, also if the device is gone."""
        with contextlib.suppress(TargetError):
            self._run(["reverse", "--remove", f"tcp:{port}"], SECONDS)

    def view(self, link: str) -> None:
        """Opens an address in the device's browser.

        Raises:
            TargetError: If the device has no browser or is disconnected.
        """
        started = self.shell(["am", "start", "-a", "android.intent.action.VIEW", "-d", link])
        output = started.stdout + started.stderr
        if started.returncode or re.search(r"^Error", output, re.MULTILINE):
            raise TargetError(
                f"Expected device {self.serial} to open {link}. Received: {_last_line(started)}. "
                "Unlock it, or open the link by hand with --no-open."
            )

    def _copy(self, command: Sequence[str], name: str | Path) -> None:
        process = self._run(command, PUSH_SECONDS)
        self._require_connection(process)
        if not process.returncode:
            return
        message = _last_line(process)
        if "No space left on device" in message:
            raise MeasurementError(
                f"Expected space on device {self.serial} for {name}. Received: no space left. "
                "Free some space under /data."
            )
        raise MeasurementError(
            f"Expected `adb {command[0]}` to copy {name}. Received: {message}, from device "
            f"{self.serial}. Check its storage and cable."
        )

    def _require_connection(self, process: Process) -> None:
        if process.returncode and (lost := LOST.search(process.stderr)):
            raise TargetError(
                f"Expected device {self.serial} to stay connected. Received: {lost[0]}. "
                "Reconnect it and measure again."
            )

    def _run(self, command: Sequence[str], seconds: float) -> Process:
        chosen = ["-s", self.serial] if self.serial else []
        try:
            return subprocess.run(
                [self._executable, *chosen, *command],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise TargetError(
                f"Expected an answer to `adb {command[0]}` from device {self.serial} within "
                f"{seconds:g} s. Received: no answer. Reconnect it and measure again."
            ) from error


def parse_devices(listing: str) -> dict[str, str]:
    """Returns the state of each device by its serial, from the output of `adb devices`.

    Examples:
        >>> from keras_mobileone.benchmarking.adb import parse_devices
        >>> parse_devices("List of devices attached\\nR5CT\\tdevice\\nemulator-5554\\toffline\\n")
        {'R5CT': 'device', 'emulator-5554': 'offline'}
    """
    _, _, lines = listing.partition("List of devices attached")
    pairs = (line.split(maxsplit=1) for line in lines.splitlines() if line.strip())
    return {serial: state.strip() for serial, state in pairs}


def choose(devices: dict[str, str], serial: str | None) -> str:
    """Returns the serial of the device to use.

    Args:
        devices: State of each device by its serial, as `parse_devices` returns it.
        serial: The wanted device. By default, the only connected one.

    Raises:
        TargetError: If no device is connected, if several are and `serial` is None, or if the
            device is not ready.
    """
    if not devices:
        raise TargetError(
            "Expected a connected Android device. Received: an empty list from `adb devices`. "
            "Connect one and enable USB debugging in its developer options."
        )
    names = ", ".join(devices)
    if serial is None and len(devices) > 1:
        raise TargetError(
            "Expected the serial of one device, since several are connected. Received: no serial. "
            f"Pass one of {names} to --android."
        )
    serial = serial or names
    if serial not in devices:
        raise TargetError(
            f"Expected the serial of a connected device: {names}. Received: {serial!r}."
        )
    state = devices[serial]
    if state != "device":
        remedies = (remedy for start, remedy in STATES.items() if state.startswith(start))
        raise TargetError(
            f"Expected device {serial} to be ready. Received: state {state!r}. "
            f"{next(remedies, 'Start Android on it.')}"
        )
    return serial


def _last_line(process: Process) -> str:
    lines = (process.stderr.strip() or process.stdout.strip()).splitlines()
    return lines[-1].rstrip(".") if lines else f"exit code {process.returncode}"
