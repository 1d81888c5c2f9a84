"""What an Android device tells about itself: model, SoC, version, temperature, battery.

Formats, all of AOSP: `getprop` prints `[name]: [value]` lines; `dumpsys thermalservice` is
ThermalManagerService.java's dumpInternal with Temperature.java's toString; `dumpsys battery` is
BatteryService.java's dumpInternal.
"""

import re

from keras_mobileone.benchmarking.adb import Adb

# PowerManager.THERMAL_STATUS_NONE … THERMAL_STATUS_SHUTDOWN.
THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
SEVERE = THERMAL.index("severe")  # from here on the system throttles what the user notices
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
    """The device's properties; those it does not set are left out."""
    found = parse_properties(adb.shell(["getprop"]).stdout)
    return {name: found[key] for name, key in PROPERTIES.items() if found.get(key)}


def parse_properties(text: str) -> dict[str, str]:
    """Value of each property, by its name in the system."""
    return dict(re.findall(r"^\[([^]]+)\]: \[(.*)\]$", text, re.MULTILINE))


def state(adb: Adb) -> dict:
    """Thermal status, temperatures in °C and battery, as they are now."""
    thermal = parse_thermal(adb.shell(["dumpsys", "thermalservice"]).stdout)
    return thermal | parse_battery(adb.shell(["dumpsys", "battery"]).stdout)


def thermal_status(adb: Adb) -> int | None:
    """Index into `THERMAL`; None before Android 10, which has no such service."""
    return parse_thermal(adb.shell(["dumpsys", "thermalservice"]).stdout)["thermal_status"]


def parse_thermal(text: str) -> dict:
    """`thermal_status`, an index into `THERMAL` or None, and `temperatures` in °C by sensor."""
    status = re.search(r"^Thermal Status: (\d+)", text, re.MULTILINE)
    # The cached temperatures come first; those read from the HAL are newer and overwrite them.
    temperatures = re.findall(r"Temperature\{mValue=([-\d.]+),.*?mName=([^,}]+)", text)
    return {
        "thermal_status": int(status[1]) if status else None,
        "temperatures": {name: round(float(value), 1) for value, name in temperatures},
    }


def parse_battery(text: str) -> dict:
    """Level in %, temperature in °C, and whether it is being fed; empty if unknown."""
    fields = dict(re.findall(r"^\s+([^:\n]+): (.+)$", text, re.MULTILINE))
    found = {}
    if "level" in fields:
        found["battery_percent"] = int(fields["level"])
    if "temperature" in fields:
        found["battery_celsius"] = int(fields["temperature"]) / 10
    powered = [name.removesuffix(" powered") for name in fields if name.endswith(" powered")]
    if powered:
        found["powered_by"] = [name for name in powered if fields[f"{name} powered"] == "true"]
    return found
