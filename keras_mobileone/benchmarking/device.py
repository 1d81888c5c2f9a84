"""Properties and state of an Android device: model, SoC, version, temperature, battery.

All formats are those of AOSP. `getprop` prints `[name]: [value]` lines, `dumpsys thermalservice`
prints dumpInternal of ThermalManagerService.java with toString of Temperature.java, and `dumpsys
battery` prints dumpInternal of BatteryService.java.
"""

import re
from typing import Any

from keras_mobileone.benchmarking.adb import Adb

# PowerManager.THERMAL_STATUS_NONE … THERMAL_STATUS_SHUTDOWN.
THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
SEVERE = THERMAL.index("severe")  # from this status on, throttling is noticeable to the user
PROPERTIES = {
    "manufacturer": "ro.product.manufacturer",
    "model": "ro.product.model",
    "soc_manufacturer": "ro.soc.manufacturer",
    "soc": "ro.soc.model",
    "platform": "ro.board.platform",
    "android": "ro.build.version.release",
    "api": "ro.build.version.sdk",
    "build": "ro.build.fingerprint",
    "abis": "ro.product.cpu.abilist",
}


def describe(adb: Adb) -> dict[str, str]:
    """Returns the properties in `PROPERTIES` that the device sets."""
    found = parse_properties(adb.shell(["getprop"]).stdout)
    return {name: found[key] for name, key in PROPERTIES.items() if found.get(key)}


def parse_properties(text: str) -> dict[str, str]:
    """Returns the value of each property by its name, from the output of `getprop`.

    Examples:
        >>> from keras_mobileone.benchmarking.device import parse_properties
        >>> parse_properties("[ro.product.model]: [Pixel 8]")
        {'ro.product.model': 'Pixel 8'}
    """
    return dict(re.findall(r"^\[([^]]+)\]: \[(.*)\]$", text, re.MULTILINE))


def state(adb: Adb) -> dict[str, Any]:
    """Returns the current thermal status, temperatures in °C and battery."""
    thermal = parse_thermal(adb.shell(["dumpsys", "thermalservice"]).stdout)
    return thermal | parse_battery(adb.shell(["dumpsys", "battery"]).stdout)


def thermal_status(adb: Adb) -> int | None:
    """Returns an index into `THERMAL`; None before Android 10, which lacks the service."""
    return parse_thermal(adb.shell(["dumpsys", "thermalservice"]).stdout)["thermal_status"]


def parse_thermal(text: str) -> dict[str, Any]:
    """Returns `thermal_status` and `temperatures` from the output of `dumpsys thermalservice`.

    The status is an index into `THERMAL`, or None if it is missing. The temperatures are in °C,
    by the name of the sensor.
    """
    status = re.search(r"^Thermal Status: (\d+)", text, re.MULTILINE)
    # The cached temperatures come first. Those read from the HAL are newer and replace them.
    temperatures = re.findall(r"Temperature\{mValue=([-\d.]+),.*?mName=([^,}]+)", text)
    return {
        "thermal_status": int(status[1]) if status else None,
        "temperatures": {name: round(float(value), 1) for value, name in temperatures},
    }


def parse_battery(text: str) -> dict[str, Any]:
    """Returns level in %, temperature in °C and power sources from `dumpsys battery`.

    Values that the output does not contain are left out.
    """
    fields = dict(re.findall(r"^\s+([^:\n]+): (.+)$", text, re.MULTILINE))
    found: dict[str, Any] = {}
    if "level" in fields:
        found["battery_percent"] = int(fields["level"])
    if "temperature" in fields:
        found["battery_celsius"] = int(fields["temperature"]) / 10
    powered = [name.removesuffix(" powered") for name in fields if name.endswith(" powered")]
    if powered:
        found["powered_by"] = [name for name in powered if fields[f"{name} powered"] == "true"]
    return found
