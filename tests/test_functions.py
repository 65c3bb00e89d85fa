"""The rules of the code inside csrc and the package: whose arithmetic stands where, and how long a function is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "onepass"
MAX_FUNCTION = 60

if not CSRC.is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

CPP = sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".cpp", ".cuh", ".cu"))
LOOPS = [p for p in CPP if p.relative_to(CSRC).parts[0] == "loops"]
PYTHON = sorted(PACKAGE.rglob("*.py"))


def each(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", files, ids=lambda p: str(p.relative_to(ROOT)))


def blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def code_of(path: Path) -> str:
    """A C++ file without comments, strings and preprocessor lines; lines keep their numbers."""
    text = re.sub(r"//.*|/\*[\s\S]*?\*/", blank, path.read_text())
    text = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text)
    return re.sub(r"^[ \t]*#(?:.*\\\n)*.*", blank, text, flags=re.MULTILINE)


def cpp_functions(code: str) -> Iterator[tuple[str, int]]:
    """The functions of C++ code with their numbers of lines, from the signature's first line to the last brace.

    A function is a pair of braces that is not inside of another function and whose head, the text since the last
    `;`, `{`, `}` or `public:`, holds a parenthesis and does not declare a namespace or a type. Lambdas belong to
    the function that they stand in.
    """
    head_start, depth, begin = 0, 0, None
    for match in re.finditer(r"[{};]|\b(?:public|private)\s*:", code):
        mark = match[0]
        if begin is None:
            head = code[head_start : match.start()]
            declared = re.sub(r"template\s*<(?:[^<>]|<[^<>]*>)*>", "", head).split("(")[0]
            is_type = re.search(r"\b(?:namespace|struct|class|enum|union|extern)\b", declared)
            if mark == "{" and "(" in head and not is_type:
                begin, depth = head_start + len(head) - len(head.lstrip()), 1
            head_start = match.end()
        elif mark in "{}":
            depth += 1 if mark == "{" else -1
            if depth == 0:
                text = code[begin : match.end()]
                yield text, text.count("\n") + 1
                begin, head_start = None, match.end()


# Types whose variables are elements, or are made of elements.
VALUE = r"(?:T|S|A|Sum|float|double|arithmetic<S>|typename Op::T)"
DECLARED = re.compile(
    rf"\b{VALUE}(?:\s+const)?[\s*&]+(?:__restrict\s+)?\(?&?(\w+)(?=[\s\[,;=){{:(])|\(auto\*?\s+(\w+)\)"
)
TOKEN = re.compile(r"[A-Za-z_]\w*|\d[\w.]*|->|[-+*/]=|<<=?|>>=?|[<>=!]=|&&|\|\||::|\S")
ARITHMETIC = {"*", "/", "-", "*=", "/=", "-="}


def before_brackets(tokens: list[str], at: int) -> int:
    """Where the name of an operand stands that ends at `at`: `x` of `x[i]`, `widen` of `widen(x[i])`."""
    while at > 0 and tokens[at] in (")", "]"):
        depth = 0
        for i in range(at, -1, -1):
            depth += (tokens[i] in ")]") - (tokens[i] in "([")
            if depth == 0:
                break
        at = i - 1
    return at


def arithmetic_on_elements(function: str) -> list[str]:
    """The products, quotients and differences of a function one of whose operands is an element.

    Elements are what the function declares with a type of VALUE, also as pointer, array or parameter, and what
    `widen` returns. Sums are no formulas: in which order parts are added is a loop's own matter. So are choices
    between two values. What is not seen: members of structs, and values whose type is `auto`, but for the one
    parameter of a lambda.
    """
    names = {name for pair in DECLARED.findall(function) for name in pair if name} | {"widen"}
    tokens = TOKEN.findall(function)
    found = []
    for i in range(1, len(tokens) - 1):
        left, right = before_brackets(tokens, i - 1), i + 1
        is_type = re.fullmatch(rf"{VALUE}|auto|void|const|char|\w+_t|[A-Z]\w*|>", tokens[i - 1])
        is_operand = re.match(r"[\w)\]]", tokens[i - 1]) and tokens[i - 1] not in ("return", "case")
        if tokens[i] not in ARITHMETIC or is_type or not is_operand:
            continue  # no arithmetic, the * of a pointer's type, a sign or a dereference
        while tokens[right] == "(":
            right += 1
        is_left = tokens[left] in names and tokens[left - 1] not in (".", "->")
        if not re.match(r"[\w>]", tokens[left]) or tokens[left] == "return":  # an expression in parentheses
            is_left = any(token in names for token in tokens[left + 1 : i])
        is_right = tokens[right] in names and tokens[right + 1] not in (".", "->")
        if is_left or is_right:
            found.append(" ".join(tokens[max(0, left - 1) : right + 2]))
    return found


@each(LOOPS)
def test_loops_hold_no_formula(path):
    """Loops know a functor's interface (kStates, kParams, add, merge, operator()), never its arithmetic."""
    assert [found for text, _ in cpp_functions(code_of(path)) for found in arithmetic_on_elements(text)] == []


def test_formulas_in_loops_are_seen():
    for wrong in (
        "template <class T> void f(const T* __restrict g, T* s, int n) { for (;;) s[i] += g[i] * g[i]; }",
        "void f() { const double g = 1; double s = 0; s -= g; }",
        "template <class S> void f(const S* x) { const auto d = widen(x[0]) - 1; }",
        "void f() { visit([&](auto x) { n += x - x != 0 ? 1 : 0; }); }",
        "template <class T> T f(T a, T b) { return (a + b) / T(2); }",
    ):
        assert [found for text, _ in cpp_functions(wrong) for found in arithmetic_on_elements(text)], wrong
    for right in (
        "template <class T> void f(const T* from, T* to, int64_t n) { T* end = to + n * 2; *end = from[n - 1]; }",
        "template <class T> T f(const T* lane, int l) { return lane[l] + lane[l + 4]; }",
        "void f() { double s = -1; s += double(n - 1); use(-s); }",
    ):
        assert [found for text, _ in cpp_functions(right) for found in arithmetic_on_elements(text)] == [], right


@each(CPP)
def test_cpp_functions_fit_the_head(path):
    long = [(text.split("{")[0].split("\n")[-1], lines) for text, lines in cpp_functions(code_of(path))]
    assert [found for found in long if found[1] > MAX_FUNCTION] == []


def test_cpp_functions_are_found():
    found = [text for text, _ in cpp_functions(code_of(CSRC / "loops" / "tensors" / "multi_tensor.h"))]
    for name in ("apply", "update_bfloat16_pairs", "operator()", "cut", "update_chunk", "multi_tensor"):
        assert sum(f" {name}(" in text.split("{")[0] for text in found) == 1, name
    long = "template <class T>\nstruct A {\n  int f() const {\n" + "    g();\n" * 70 + "  }\n};\n"
    assert [lines for _, lines in cpp_functions(long)] == [72]


def python_functions(path: Path) -> Iterator[tuple[str, int]]:
    """The functions of a Python file, and their lines from `def` on, without the docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
            yield node.name, (node.end_lineno or 0) - node.lineno + 1 - docstring


def test_python_functions_fit_the_head():
    long = {
        f"{path.relative_to(PACKAGE)}:{name}"
        for path in PYTHON
        for name, lines in python_functions(path)
        if lines > MAX_FUNCTION
    }
    assert long == set()
