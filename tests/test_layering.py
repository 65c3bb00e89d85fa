"""The rules of the layout (docs/architecture.md): who may include or import whom, and what stands where."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "onepass"
# Each layer of csrc includes itself and those before it.
LAYERS = ("core", "math", "loops", "kernels", "bind")
# Folders of csrc/loops, and which of the others each may include: no circle, and no folder includes a later one.
LOOPS = {
    "common": (),
    "draws": ("common",),
    "tensors": ("common", "draws"),
    "channels": ("common", "draws"),
    "elements": ("common", "draws", "channels"),
    "classes": ("common",),
    "rows": ("common", "draws"),
    "images": ("common", "draws"),
}
# Folders of csrc/kernels and csrc/bind: a family includes no other; in bind all stand on core.
FAMILIES = ("optim", "norm", "loss", "dropout", "augment", "probe")
# The parts of the package that `import onepass` does not load, and what each of them may import of the others.
TOOLS = {
    "bench": (),
    "parity": (),
    "demo": ("bench",),
    "lab": ("bench", "demo"),
    "visualize": ("_page",),
    "report": ("_page",),
    "_page": (),
    "cli": ("bench", "parity", "demo", "lab", "visualize", "report", "_page"),
}
MAX_LINES = 400

if not CSRC.is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

CPP = sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".cpp", ".cuh", ".cu"))
PYTHON = sorted(PACKAGE.rglob("*.py"))
OTHERS = [
    p
    for folder in ("tests", "docs", "benchmarks")
    for p in sorted((ROOT / folder).rglob("*"))
    if p.suffix in (".py", ".h", ".cpp", ".cu")
]


def each(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", files, ids=lambda p: str(p.relative_to(ROOT)))


def code_of(path: Path) -> str:
    """A C++ file without its comments."""
    return re.sub(r"//.*|/\*[\s\S]*?\*/", "", path.read_text())


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', code_of(path), re.MULTILINE)


def own_includes(path: Path) -> list[str]:
    """What a file includes of csrc itself."""
    return [name for name in includes(path) if (CSRC / name).exists()]


def imports(path: Path) -> Iterator[str]:
    """Every module that a Python file imports, also inside functions, by its full name."""
    package = ("onepass", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{name.name}" for name in node.names)


@each(CPP)
def test_includes_only_layers_before(path):
    layer = path.relative_to(CSRC).parts[0]
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    assert [name for name in own_includes(path) if Path(name).parts[0] not in allowed] == []


def folder(path: Path) -> str:
    """The folder of a file within its layer; "" where it lies in the layer itself."""
    inside = path.parts[1:-1]
    return inside[0] if inside else ""


@each([p for p in CPP if p.relative_to(CSRC).parts[0] == "loops"])
def test_loops_include_only_folders_before(path):
    own = folder(path.relative_to(CSRC))
    allowed = (own, *LOOPS[own])
    inside = [Path(name) for name in own_includes(path) if Path(name).parts[0] == "loops"]
    assert [str(name) for name in inside if folder(name) not in allowed] == []


def test_folders_of_loops_have_an_order():
    names = list(LOOPS)
    assert sorted(names) == sorted(p.name for p in (CSRC / "loops").iterdir())
    assert all(names.index(other) < names.index(name) for name, others in LOOPS.items() for other in others)


@each([p for p in CPP if p.relative_to(CSRC).parts[0] in ("kernels", "bind")])
def test_families_include_no_other(path):
    layer, own = path.relative_to(CSRC).parts[0], folder(path.relative_to(CSRC))
    if own == "":  # the list of all kernels, the module
        return
    assert own in (*FAMILIES, *(("core",) if layer == "bind" else ()))
    allowed = ("", own, *(("core",) if layer == "bind" else ()))
    inside = [Path(name) for name in own_includes(path) if Path(name).parts[0] == layer]
    assert [str(name) for name in inside if folder(name) not in allowed] == []


def test_includes_make_no_circle():
    """Followed from each header, includes end."""
    edges = {str(p.relative_to(CSRC)): own_includes(p) for p in CPP}
    done: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way, name])
        if name not in done:
            for other in edges[name]:
                follow(other, (*way, name))
            done.add(name)

    for name in edges:
        follow(name, ())


@each(CPP)
def test_includes_no_framework(path):
    """No torch anywhere, Python in bind/ alone, CUDA and the simulator through core/kernel_compat.cuh alone."""
    banned = [r"torch|ATen|c10|caffe2"]
    if path.relative_to(CSRC).parts[0] != "bind":
        banned.append(r"pybind11|Python\.h")
    if path.name != "kernel_compat.cuh":
        banned.append(r"simt/|cuda|cooperative_groups|cub/|thrust/")
        assert not re.search(r"<<<|__shared__", code_of(path))
    foreign = [name for name in includes(path) if name not in own_includes(path)]
    assert [name for name in foreign if re.match("|".join(banned), name)] == []


@each([p for p in CPP if p.suffix in (".h", ".cpp")])
def test_host_files_include_no_device_code(path):
    assert [name for name in includes(path) if name.endswith((".cuh", ".cu"))] == []


@each([p for p in CPP if p.relative_to(CSRC).parts[0] == "math"])
def test_formulas_work_on_registers(path):
    """No loop, no thread index, no pointer: the loops of both devices use the same formula."""
    code = code_of(path)
    assert not re.search(r"\b(?:for|while|do|threadIdx|blockIdx|void)\b\s*[({.*]", code)
    assert not re.search(r"\b(?:T|float|double)\s*(?:const\s*)?\*", code)


@each([p for p in CPP if p.relative_to(CSRC).parts[0] in ("loops", "kernels", "bind")])
def test_formulas_stand_in_math_only(path):
    """No function of mathematics, no product with a hyper-parameter; for loops see test_functions.py."""
    code = code_of(path)
    assert not re.search(r"\b(?:sqrt|rsqrt|pow|exp|expm1|log|log1p|tanh|erf|fma)f?\s*\(", code)
    assert not re.search(r"\b(?:beta[12]|momentum|lr|weight_decay|eps)\s*[*/]|[*/]\s*(?:beta[12]|lr|eps)\b", code)


@pytest.mark.parametrize("path", sorted((CSRC / "kernels").rglob("*.cu")), ids=lambda p: p.stem)
def test_one_stem_through_all_layers(path):
    if path.stem == "step_count":  # counting up is no formula, and on the CPU no kernel
        return
    kernel = path.relative_to(CSRC / "kernels").with_suffix(".cpp")
    for name in (f"math/{path.stem}.h", f"kernels/{kernel}", f"bind/{kernel}"):
        assert (CSRC / name).exists(), name


@each(PYTHON)
def test_package_does_not_import_its_tools(path):
    part = path.relative_to(PACKAGE).parts[0]
    if part == "__main__.py":
        return
    banned = [tool for tool in TOOLS if tool != part and tool not in TOOLS.get(part, ())]
    found = [name for name in imports(path) if name.startswith("onepass.") and name.split(".")[1] in banned]
    assert found == []


def test_import_brings_torch_alone():
    """Neither the command's packages nor its parts are loaded: a training script pays for what it uses."""
    script = (
        "import json, sys, torch; before = set(sys.modules); import onepass; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    new = json.loads(done.stdout)
    assert "onepass.optim" in new
    assert {name.split(".")[0] for name in new} - sys.stdlib_module_names <= {"onepass", "torch"}
    assert [name for name in new if name.startswith("onepass.") and name.split(".")[1] in TOOLS] == []


@each([*CPP, *PYTHON, *OTHERS])
def test_files_fit_the_head(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@each(CPP)
def test_cpp_files_say_what_they_are(path):
    """By a leading comment, or by including first the header of the same name, which has it."""
    first = path.read_text().splitlines()[0]
    own = f'#include "{path.relative_to(CSRC).with_suffix(".h")}"'
    assert first.startswith(f"// {path.name} - ") or (path.suffix == ".cpp" and first == own)


@each(PYTHON)
def test_python_files_say_what_they_are(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
