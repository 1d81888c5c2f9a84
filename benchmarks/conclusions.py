"""Which conclusions of the latency studies hold on which machine, from the stored results alone.

Each conclusion is a number of a result and a condition on it. A machine without the result, or
whose result is older than a network, has no say.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fused
import peers
import runtimes
import study
from study import ratio

from keras_mobileone.deployment.report import markdown_table

Value = Callable[[dict], float]
Condition = Callable[[float], bool]
NOTHING = "not measured"


@dataclass(frozen=True)
class Conclusion:
    """A statement that a result supports or contradicts.

    Attributes:
        study: Name of the study.
        text: The statement.
        number: What the number is.
        value: `value(result)` returns the number. It raises KeyError if the result lacks a row.
        holds: `holds(number)` returns whether the statement is true.
        form: Format of the number.
    """

    study: str
    text: str
    number: str
    value: Value
    holds: Condition
    form: str = "{:.2f}"


def machines(results: Path = study.RESULTS) -> dict[str, dict[str, dict]]:
    """Returns the results of each machine by the processor's name and the study's."""
    found: dict[str, dict[str, dict]] = {}
    for name in sorted({one.study for one in CONCLUSIONS}):
        for _, result in study.stored(name, results):
            found.setdefault(result["conditions"]["processor"], {})[name] = result
    return found


def answer(conclusion: Conclusion, results: dict[str, dict]) -> tuple[bool | None, str]:
    """Returns whether a conclusion holds on a machine, and a text with its number.

    Without a result the answer is None.
    """
    try:
        value = conclusion.value(results[conclusion.study])
    except KeyError:
        return None, NOTHING
    holds = conclusion.holds(value)
    return holds, f"{'yes' if holds else 'no'}, {conclusion.form.format(value)}"


def markdown(results: Path = study.RESULTS) -> str:
    """Returns a table of the conclusions, as far as measured, with one column for each machine."""
    by_machine = machines(results)
    if not by_machine:
        return "Not measured yet. `make benchmark` measures it."
    rows, everywhere, differing = [], 0, 0
    for one in CONCLUSIONS:
        answers = [answer(one, found) for found in by_machine.values()]
        verdicts = [holds for holds, _ in answers if holds is not None]
        if not verdicts:
            continue
        shared = len(verdicts) > 1
        everywhere += shared and len(set(verdicts)) == 1
        differing += shared and len(set(verdicts)) > 1
        rows.append((f"{one.text} ({one.number})", *(text for _, text in answers), _both(verdicts)))
    header = ("conclusion", *by_machine, "on all machines")
    return "\n\n".join([_summary(everywhere, differing), markdown_table(header, rows)])


def _both(verdicts: list[bool]) -> str:
    """Returns what several machines say of one conclusion."""
    if len(verdicts) < 2:
        return "one machine only"
    if len(set(verdicts)) > 1:
        return "**differs**"
    return "holds" if verdicts[0] else "does not hold"


def _summary(everywhere: int, differing: int) -> str:
    """Returns a sentence on how far the machines agree."""
    if not everywhere + differing:
        return "No conclusion has been measured on two machines yet."
    return (
        f"Of the {everywhere + differing} conclusions that were measured on more than one machine, "
        f"{differing} differ between them. Behind each answer stands its number."
    )


def _named(result: dict, name: str) -> dict:
    """Returns the row of a network; KeyError if there is none."""
    return {row["name"]: row for row in result["rows"]}[name]


def _to_first(name: str, result: dict) -> float:
    """Returns the latency of a row divided by that of the first row."""
    return ratio(_named(result, name), result["rows"][0])


def _peers(name: str, precision: str, other: str, other_precision: str, result: dict) -> float:
    """Returns the ratio of the latencies of two networks, each with one thread."""
    columns = peers.by_column(result["rows"])
    return ratio(columns[precision, 1][name], columns[other_precision, 1][other])


def _against(name: str, precision: str, other: str) -> Value:
    return partial(_peers, name, precision, other, precision)


def _int8_gain(name: str) -> Value:
    return partial(_peers, name, "int8", name, "float32")


def _fusing(key: str, result: dict) -> float:
    return ratio(*fused.pairs(result)[key])


def _runtime(runtime: str, precision: str, result: dict) -> float:
    return runtimes.against_litert(result, runtime, precision)


def _rank_gain(result: dict) -> float:
    found = result["correlation"]
    return found["macs"]["rho"] - found["parameters"]["rho"]


def _cost_of_work(result: dict) -> float:
    costs = [study.milliseconds(row) / row["macs"] for row in result["rows"]]
    return max(costs) / min(costs)


def _faster(value: float) -> bool:
    return value < 1


def _slower(value: float) -> bool:
    return value > 1


def _at_most(limit: float) -> Condition:
    return lambda value: value <= limit


def _more_than(limit: float) -> Condition:
    return lambda value: value > limit


TO_S0, TO_FLOAT = "its time divided by S0's", "int8's time divided by float32's"
TO_RELU, TO_PLAIN = "time divided by ReLU's", "time divided by the plain network's"
TO_LITERT = "its time divided by LiteRT's"
CONCLUSIONS = (
    *(
        Conclusion("peers", f"{name} is faster in int8", TO_FLOAT, _int8_gain(name), _faster)
        for name in ("MobileOneS0", "MobileNetV2", "MobileNetV3Large", "EfficientNetB0")
    ),
    *(
        Conclusion(
            "peers",
            f"MobileNetV2 is slower than S0 in {one}",
            TO_S0,
            _against("MobileNetV2", one, "MobileOneS0"),
            _slower,
        )
        for one in peers.COMPARED
    ),
    *(
        Conclusion(
            "peers",
            f"{name}, more accurate than {own}, is slower in {one}",
            f"its time divided by {own}'s",
            _against(name, one, f"MobileOne{own}"),
            _slower,
        )
        for name, own in (
            ("MobileNetV3Large", "S0"),
            ("EfficientNetB0", "S1"),
            ("MobileNetV4ConvS", "S0"),
            ("FastViTT8", "S1"),
            ("RepViTM0.9", "S3"),
            ("MobileNetV4ConvM", "S4"),
        )
        for one in peers.COMPARED
    ),
    Conclusion(
        "correlation",
        "multiply-accumulates rank networks by latency better than parameters do",
        "difference of Spearman's ρ",
        _rank_gain,
        _more_than(0),
    ),
    Conclusion(
        "correlation",
        "a multiply-accumulate takes over 1.5 times as long in one network as in another",
        "most by least",
        _cost_of_work,
        _more_than(1.5),
    ),
    *(
        Conclusion(
            "activations",
            f"{name} costs at most 10 % more than ReLU",
            TO_RELU,
            partial(_to_first, name),
            _at_most(1.1),
        )
        for name in ("hard-swish", "SiLU", "GELU", "SE-ReLU", "Dynamic ReLU-B")
    ),
    *(
        Conclusion(
            "blocks",
            f"{name} cost at most 5 %",
            TO_PLAIN,
            partial(_to_first, row),
            _at_most(1.05),
        )
        for name, row in (
            ("skip connections", "skip connections"),
            ("squeeze-and-excitation blocks", "squeeze-and-excitation"),
            ("four fused branches", "4 convolution branches, fused"),
        )
    ),
    Conclusion(
        "blocks",
        "four branches that are not fused take over three times as long",
        TO_PLAIN,
        partial(_to_first, "4 convolution branches, unfused"),
        _more_than(3),
    ),
    *(
        Conclusion(
            "fused",
            f"fusing {key} makes it more than {limit:g} times as fast",
            "unfused by fused",
            partial(_fusing, key),
            _more_than(limit),
        )
        for key, limit in (("S0", 3), ("S4", 1.1))
    ),
    *(
        Conclusion(
            "runtimes",
            f"{runtime} is faster than LiteRT for S0 in {one}",
            TO_LITERT,
            partial(_runtime, runtime, one),
            _faster,
        )
        for runtime in (runtimes.ONNX, runtimes.OPENVINO)
        for one in runtimes.PRECISIONS
    ),
)
