"""Tests the order of the modules, and the cost of importing the package."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

PACKAGE = "keras_mobileone"
ROOT = Path(__file__).parents[1]
# These packages are imported where they are used, and never at the top of a module.
LATE = {"tensorflow", "jax", "torch", "PIL", "matplotlib", "ai_edge_litert", "h5py", "safetensors"}
LATE |= {"tensorflow_datasets", "tensorboard", "tensorflow_model_optimization", "tf_keras"}
LATE |= {"trustme", "segno", "faster_coco_eval"}
# Only the command line needs these packages. No module that `import keras_mobileone` reads imports
# them.
COMMAND_LINE = {"click", "rich"}


def read_map(text: str) -> list[str]:
    """Returns the modules in the order of the map in CONTRIBUTING.md, with a package as `__init__`.

    A line that begins with a package (`.` for the root) lists its modules, and so do the lines that
    continue the list. The other lines are descriptions, which do not end in the name of a module.
    """
    block = re.search(r"```map\n(.*?)```", text, re.DOTALL)[1]
    order, package = [], None
    for line in block.splitlines():
        if line[0] != " ":
            package, *names = line.split()
        elif all((ROOT / PACKAGE / package / f"{name}.py").is_file() for name in line.split()):
            names = line.split()
        else:
            continue
        prefix = "" if package == "." else package.replace("/", ".")
        if prefix and prefix not in order and "__init__" not in block_of(block, package):
            order.append(prefix)
        order += [
            prefix if name == "__init__" else f"{prefix}.{name}".removeprefix(".") for name in names
        ]
    return order


def block_of(block: str, package: str) -> str:
    """Returns the lines of one package in the map."""
    start = block.index(f"\n{package} ") + 1
    following = re.search(r"\n\S", block[start:])
    return block[start : start + following.start()] if following else block[start:]


def module_name(path, root) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


ORDER = read_map((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def modules(project):
    """Returns the syntax tree of each module by its name below the package."""
    root = project / PACKAGE
    return {module_name(p, root): ast.parse(p.read_text()) for p in sorted(root.rglob("*.py"))}


def imported(tree, known) -> set[str]:
    """Returns the modules of this package that are imported anywhere in a syntax tree."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are written out, not relative"
            # `from package import name` may mean a module or a name of the package.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n.removeprefix(f"{PACKAGE}.") in known else node.module for n in names]
        else:
            continue
        found |= {n.removeprefix(PACKAGE).removeprefix(".") for n in names if within(n, PACKAGE)}
    return found


def within(module, package) -> bool:
    return module == package or module.startswith(f"{package}.")


def top_level_imports(tree) -> set[str]:
    """Returns the top-level packages that a module imports when it is imported."""
    found, pending = set(), list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue  # never runs
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            pending.extend(ast.iter_child_nodes(node))
    return found


def test_every_module_has_its_place_in_the_order(modules):
    unplaced = sorted(set(modules) - set(ORDER))
    assert not unplaced, (
        f"{unplaced} stand nowhere in the map of CONTRIBUTING.md: put each after what it "
        "imports and before what imports it."
    )
    gone = [name for name in ORDER if name not in modules]
    assert not gone, f"{gone} are in the map of CONTRIBUTING.md but are not modules."
    assert len(ORDER) == len(set(ORDER))


def test_imports_go_one_way(modules):
    wrong = [
        f"{name or PACKAGE} imports {other or PACKAGE}"
        for name, tree in modules.items()
        for other in imported(tree, set(modules))
        if name in ORDER and other in ORDER and ORDER.index(other) >= ORDER.index(name)
    ]
    assert not wrong, f"Against the order of the modules: {'; '.join(wrong)}."


def test_the_order_is_needed(modules):
    """`imported` finds known imports in both spellings."""
    assert "layers.block" in imported(modules["models.fusing"], set(modules))
    assert "layers.reparameterization" in imported(
        modules["layers.block"], set(modules)
    )  # from keras_mobileone import …
    assert imported(modules["errors"], set(modules)) == set()
    assert {"keras", "numpy"} <= top_level_imports(modules["models.fusing"])


def test_heavy_packages_are_imported_where_used(modules):
    wrong = {name: top_level_imports(tree) & LATE for name, tree in modules.items()}
    wrong = {name: found for name, found in wrong.items() if found}
    assert not wrong, f"Import inside the function that needs it: {wrong}."


def test_only_the_command_line_imports_its_libraries(modules):
    for name, tree in modules.items():
        if not within(name, "cli") and name != "__main__":
            wrong = top_level_imports(tree) & COMMAND_LINE
            assert not wrong, f"{name} imports {wrong}, which only `cli` may do at its top."


LOADED = "import sys, json, {}; print(json.dumps(sorted(sys.modules)))"


@pytest.mark.slow
def test_importing_costs_no_more_than_keras(run_python):
    """The cost is measured by loaded modules and not by time. All public names are looked up."""
    keras_alone = set(json.loads(run_python(LOADED.format("keras")).splitlines()[-1]))
    everything = f"keras, {PACKAGE}; [getattr({PACKAGE}, name) for name in {PACKAGE}.__all__]"
    with_us = set(json.loads(run_python(LOADED.format(everything)).splitlines()[-1]))
    ours = {name for name in with_us if within(name, PACKAGE)}
    assert len(ours) > 50
    foreign = {
        name
        for name in with_us - keras_alone - ours
        if name.split(".")[0] not in sys.stdlib_module_names
    }
    assert not foreign, f"`import {PACKAGE}` loads more than `import keras`: {sorted(foreign)}"


def test_importing_does_not_import_keras(run_python):
    loaded = set(json.loads(run_python(LOADED.format(PACKAGE)).splitlines()[-1]))
    assert not loaded & {"keras", "tensorflow", "numpy"}


def test_the_public_names_are_the_same_in_all_three_lists(modules):
    """The lists are those for lookup and for type checkers, and `__all__`."""
    import keras_mobileone

    (block,) = (node for node in modules[""].body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module.removeprefix(f"{PACKAGE}.")
        for node in block.body
        for alias in node.names
    }
    assert typed == keras_mobileone._MODULES
    assert sorted(typed) == sorted(keras_mobileone.__all__)
    assert set(typed) <= set(dir(keras_mobileone))
    with pytest.raises(AttributeError, match="no attribute 'MobileOneS5'"):
        _ = keras_mobileone.MobileOneS5


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_model):
    path = tmp_path_factory.mktemp("saved") / "tiny.keras"
    tiny_model.save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import keras_mobileone, keras",
        "import keras, keras_mobileone",
        "import keras_mobileone; import keras.models",
    ],
)
def test_keras_loads_the_classes_in_any_order_of_imports(imports, saved, run_python):
    source = f"""
import sys
{imports}
model = keras.models.load_model(sys.argv[1])
print(type(model).__module__, model.layers[1].__class__.__name__, keras.__spec__.loader.path)
"""
    words = run_python(source, saved).split()
    assert words[:2] == ["keras_mobileone.models.network", "MobileOneBlock"]
    assert words[2].endswith("__init__.py")  # the loader of Keras still answers


@pytest.mark.slow
@pytest.mark.parametrize("module", ["layers.block", "layers.batch_norm", "compat"])
def test_a_module_that_the_classes_need_can_be_the_first_import(module, run_python):
    registered = "keras.saving.get_registered_object('keras_mobileone>MobileOneBlock')"
    source = f"""
import keras_mobileone.{module}
import keras
print({registered} is keras_mobileone.MobileOneBlock)
"""
    assert run_python(source).split() == ["True"]


def test_a_missing_keras_is_reported_as_ever(run_python):
    source = """
import sys
import keras_mobileone
sys.path[:] = []
try:
    import keras
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert run_python(source).strip() == "keras"


def test_every_registered_class_is_imported_after_keras(modules):
    from keras_mobileone.registration import MODULES

    registering = {
        f"{PACKAGE}.{name}"
        for name, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "register_keras_serializable"
    }
    assert registering == set(MODULES)


def test_public_names_exist_and_are_documented():
    import keras_mobileone

    assert sorted(keras_mobileone.__all__) == sorted(set(keras_mobileone.__all__))
    for name in keras_mobileone.__all__:
        value = getattr(keras_mobileone, name)
        assert name == "VARIANTS" or value.__doc__, f"{name} has no docstring"
