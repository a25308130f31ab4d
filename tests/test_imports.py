"""Which part of the library may import which, and what `import oto_jax` costs."""

import ast
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Data flows one way: model -> zigs -> optim -> training -> prune.
MAY_IMPORT = {
    "errors": set(),
    "zigs": {"errors"},
    "optim": {"errors", "zigs"},
    "prune": {"errors", "zigs"},
    "models": set(),
}
FLAX_LIVES_IN = ("models/", "prune/linen", "prune/nnx", "zigs/find.py")
CORE = {"jax", "flax", "optax", "numpy", "orbax"}
PLOTS = ("canvas", "costs", "histogram", "layers", "norms", "sparsity", "units", "widths")
# What a function of the library asks for when it is called, from an extra.
EXTRAS = {
    "zigs/draw.py": {"igraph"},
    **{f"plot/{name}.py": {"matplotlib"} for name in PLOTS},
}
# Our own code, and what code may use where it is installed and does without where not.
OURS = {"oto_jax", "benchmarks", "docs", "experiments", "notebooks", "tests"}
OURS |= {"torch", "transformers", "__future__"}  # Used where they are installed.
HEAVY = ("igraph", "tensorflow", "torch", "transformers", "matplotlib", "sklearn", "pandas")


def imported_modules(file: pathlib.Path) -> set[str]:
    """Full names of all that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{absolute(node, file)}.{alias.name}" for alias in node.names}
    return names


def absolute(node: ast.ImportFrom, file: pathlib.Path) -> str:
    """What a `from ... import` takes its names from, relative imports written out."""
    if not node.level:
        return node.module or ""
    package = file.relative_to(ROOT).parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def library_files() -> list[pathlib.Path]:
    return sorted((ROOT / "oto_jax").rglob("*.py"))


def parts_imported(file: pathlib.Path) -> set[str]:
    """The parts of the library (`zigs`, `optim`, ...) that a file imports from."""
    names = (name.split(".") for name in imported_modules(file))
    return {name[1] for name in names if name[0] == "oto_jax" and len(name) > 1}


def test_parts_import_only_what_lies_upstream() -> None:
    wrong = []
    for file in library_files():
        within = file.relative_to(ROOT / "oto_jax")
        part = within.parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        allowed = MAY_IMPORT.get(part, set(MAY_IMPORT) - {"models"}) | {part}
        surplus = sorted(parts_imported(file) - allowed)
        wrong += [f"{within} imports oto_jax.{name}" for name in surplus]
    assert not wrong, wrong


def test_no_part_imports_the_package_root() -> None:
    """`import oto_jax` inside the library would pull in every part."""
    wrong = [str(file) for file in library_files() if "oto_jax" in imported_modules(file)]
    assert not wrong, wrong


def test_flax_stays_in_its_adapters() -> None:
    wrong = []
    for file in library_files():
        within = file.relative_to(ROOT / "oto_jax").as_posix()
        uses_flax = any(name.split(".")[0] == "flax" for name in imported_modules(file))
        if uses_flax and not within.startswith(FLAX_LIVES_IN):
            wrong.append(within)
    assert not wrong, wrong


def test_library_needs_only_its_core_dependencies() -> None:
    allowed = CORE | {"oto_jax", "__future__"} | set(sys.stdlib_module_names)
    wrong = []
    for file in library_files():
        within = file.relative_to(ROOT / "oto_jax").as_posix()
        tops = {name.split(".")[0] for name in imported_modules(file)}
        extra = EXTRAS.get(within, set())
        wrong += [f"{within} imports {name}" for name in sorted(tops - allowed - extra)]
    assert not wrong, wrong


def test_experiments_use_the_public_names_alone() -> None:
    wrong = []
    for file in sorted((ROOT / "experiments").rglob("*.py")):
        surplus = sorted(parts_imported(file) & set(MAY_IMPORT) - {"models"})
        wrong += [f"{file.name} imports oto_jax.{name}" for name in surplus]
    assert not wrong, wrong


@pytest.mark.parametrize("name", HEAVY)
def test_import_pulls_in_nothing_heavy(loaded_modules: set[str], name: str) -> None:
    assert name not in loaded_modules


@pytest.fixture(scope="module")
def loaded_modules() -> set[str]:
    """Top-level modules of a fresh process, warnings being errors, after `import oto_jax`."""
    listing = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import oto_jax, sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert listing.returncode == 0, listing.stderr
    return {name.split(".")[0] for name in listing.stdout.split()}


def test_experiments_need_only_declared_packages() -> None:
    """What experiments and tests import is in an extra, so that `make` installs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    used = ("docs", "experiments", "notebooks", "test")
    lines = [*project["dependencies"], *(line for name in used for line in extras[name])]
    declared = {plain(re.split(r"[^\w.-]", line)[0]) for line in lines} | {"orbax-checkpoint"}
    packages = importlib.metadata.packages_distributions()
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for folder in ("experiments", "tests")
        for file in sorted((ROOT / folder).rglob("*.py"))
        for name in sorted({name.split(".")[0] for name in imported_modules(file)} - OURS)
        if name not in sys.stdlib_module_names
        and not {plain(package) for package in packages.get(name, [name])} & declared
    ]
    assert not wrong, wrong


def plain(package: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", package).lower()
