"""The shape of the project that no linter checks: public names, lazy imports, the one patching file, file lengths."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import handful

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "handful"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "transformers", "sklearn", "scipy", "numpy"}

FORWARDS = {"forward", "_attn_implementation", "_attn_implementation_internal"}
"""attributes of a backbone's modules and configurations that decide what runs"""
PATCHING_CALLS = re.compile(
    r"register_(?!profile)\w*(hook|parameter|buffer|module|parametrization)\w*|add_module|set_submodule"
    r"|set_attn_implementation|set_input_embeddings|resize_token_embeddings|load_state_dict"
)


def module_name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", handful.__all__)
def test_public_name_is_importable(name: str) -> None:
    assert getattr(handful, name) is not None


def test_public_names_are_listed_once() -> None:
    assert sorted(handful._PUBLIC) == sorted(set(handful.__all__)) == handful.__all__
    assert set(handful.__all__) <= set(dir(handful))
    declared = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in declared.body if isinstance(node, ast.If))
    names = {
        alias.asname or alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert names == set(handful.__all__)


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trainer'"):
        _ = handful.trainer


@pytest.mark.parametrize("name", ["attach", "fit"])
def test_public_function_is_not_hidden_by_its_module(name: str) -> None:
    out = run(f"import handful.{name}, handful; from handful import {name}; print(callable(handful.{name}), {name})")
    assert out.startswith(f"True <function {name} ")


@pytest.mark.parametrize("arguments", [None, ["--help"], ["--version"], ["fit", "--help"]])
def test_starting_is_light(arguments: list[str] | None) -> None:
    start = "import handful"
    if arguments is not None:
        start = f"""
from handful.cli import main
sys.argv = ["handful", *{arguments}]
try:
    status = main()
except SystemExit as exit_:
    status = exit_.code
assert not status, status
"""
    out = run(f"import sys\n{start}\nprint('loaded', *({HEAVY} & set(sys.modules)))")
    assert out.splitlines()[-1].split() == ["loaded"]


def patches(tree: ast.AST) -> Iterator[int]:
    """Lines that change what a module of the backbone does."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Store() | ast.Del()) if name in FORWARDS:
                yield node.lineno
            case ast.Call(func=ast.Attribute(attr=name)) if PATCHING_CALLS.fullmatch(name):
                yield node.lineno
            case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[_, ast.Constant(value=name), *_]) if (
                name in FORWARDS
            ):
                yield node.lineno
            case _:
                pass


@pytest.mark.parametrize(
    "line",
    [
        "module.forward = wrapped",
        "del module.forward",
        "setattr(module, 'forward', wrapped)",
        "config._attn_implementation = 'eager'",
        "module.register_forward_pre_hook(hook)",
        "model.get_submodule('a').register_parameter('b', p)",
    ],
)
def test_patching_is_recognised(line: str) -> None:
    assert list(patches(ast.parse(line))) == [1]


def test_two_files_patch_the_backbone() -> None:
    """One for methods; the other tells a decoder, for one call, where several answers in a row of it stand."""
    found = {module_name(path): lines for path in MODULES if (lines := list(patches(ast.parse(path.read_text()))))}
    assert set(found) == {"attach.py", "packing.py"}, found


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_modules_are_short(path: Path) -> None:
    limit = 120 if path.parent.name == "methods" and path.stem != "__init__" else 300
    lines = len(path.read_text().splitlines())
    assert lines <= limit


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_library_does_not_print(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not lines or path.stem == "cli"


def test_every_method_is_in_the_laws_and_the_docs() -> None:
    from handful.methods import _BUILT_IN
    from laws.cases import METHODS

    docs = (ROOT / "docs" / "methods.md").read_text()
    assert set(_BUILT_IN) - set(METHODS) == set()
    assert {name for name in _BUILT_IN if f"`{name}`" not in docs} == set()


def test_every_module_of_a_set_is_listed() -> None:
    from handful.families import _MODULES
    from handful.methods import _BUILT_IN

    def files(folder: str) -> set[str]:
        return {path.stem for path in (PACKAGE / folder).glob("[!_]*.py")}

    assert files("families") == set(_MODULES)
    assert files("methods") - {"base", "combine", "variants"} == {target.split(".")[0] for target in _BUILT_IN.values()}


def committed() -> list[Path]:
    """Files that git has or would take."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


PLACES = re.compile(
    r"(?:pypi|pythonhosted|npmjs|nodejs|anaconda|debian)\.(?:org|com|io)"  # a package registry's host
    r"|(?:index-url|find-links|trusted-host)[ =]"  # or a choice of one
    r"|(?<![\w.])/(?:work|root|opt/\w+|home/\w+|Users/\w+)/"  # a path of one machine
)


def test_no_registry_and_no_machine_is_named() -> None:
    found = []
    for path in committed():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # not a text
        found += [f"{path.relative_to(ROOT)}:{i}" for i, line in enumerate(lines, 1) if PLACES.search(line)]
    assert not found


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "constraints.txt"])
def test_a_house_has_its_papers(name: str) -> None:
    assert (ROOT / name).read_text().strip()


def test_every_direct_dependency_has_a_tested_version() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    names = {re.split(r"[^\w.-]", line)[0].lower() for line in asked} - {"handful"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert names - set(pinned) == set()
    assert not [version for version in pinned.values() if "+" in version]
