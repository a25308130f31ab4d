"""Every public name says what it takes, returns and raises, and shows it in an example that runs.

What a function raises is read from its source: the ``raise`` statements of its own body, of the
functions of the library that it calls by their name, and so on. What it calls as a method of an
object is not seen. A broken assertion is an error of the library, not of its user, and not told.
"""

import ast
import builtins
import dataclasses
import functools
import importlib
import inspect
import re
import subprocess
import sys
import textwrap

import pytest

import oto_jax
from oto_jax import plot, saliency

SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example")


def own(module):
    """The public functions and classes that a module without ``__all__`` defines."""
    return {
        name: thing
        for name, thing in vars(module).items()
        if name[0] != "_" and inspect.getmodule(thing) is module and hasattr(thing, "__qualname__")
    }


def public():
    """Everything public by the name that users type."""
    found = {f"oto_jax.{name}": getattr(oto_jax, name) for name in oto_jax.__all__}
    found |= {f"plot.{name}": getattr(plot, name) for name in plot.__all__}
    found |= {f"saliency.{name}": thing for name, thing in own(saliency).items()}
    return {name: thing for name, thing in found.items() if not inspect.ismodule(thing)}


def fields(cls):
    """The names of the fields of a dataclass or named tuple."""
    named = (
        [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
    )
    return {name for name in getattr(cls, "_fields", named) if name[0] != "_"}


def members(cls):
    """The public methods and properties that a class of the library defines itself."""
    for name, thing in vars(cls).items():
        if name[0] == "_" or name in fields(cls):  # whose value may be a function too
            continue
        if isinstance(thing, property):
            yield name, thing.fget
        elif isinstance(thing, functools.cached_property):
            yield name, thing.func
        elif isinstance(thing, (classmethod, staticmethod)):
            yield name, thing.__func__
        elif inspect.isfunction(thing):
            yield name, thing


def is_property(cls, name):
    return isinstance(vars(RECORDS[cls])[name], (property, functools.cached_property))


PUBLIC = public()
CLASSES = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing)}
ERRORS = {name: cls for name, cls in CLASSES.items() if issubclass(cls, Exception)}
RECORDS = {name: cls for name, cls in CLASSES.items() if name not in ERRORS}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}
MEMBERS = {
    f"{name}.{inner}": thing for name, cls in RECORDS.items() for inner, thing in members(cls)
}
METHODS = {name: thing for name, thing in MEMBERS.items() if not is_property(*name.rsplit(".", 1))}
CALLABLE = FUNCTIONS | METHODS


def sections(thing):
    """The text under each heading of a docstring, and the names that it explains."""
    text = inspect.cleandoc(thing.__doc__ or "")
    parts = re.split(rf"^({'|'.join(SECTIONS)}):$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], map(textwrap.dedent, parts[2::2]), strict=True))


def explained(thing, section):
    """The names that stand at the left of a section, each followed by a colon and words."""
    lines = sections(thing).get(section, "").strip("\n")
    return set(re.findall(r"^\*{0,2}(\w+): *\S", lines, flags=re.MULTILINE))


def parameters(function):
    return set(inspect.signature(function).parameters) - {"self", "cls"}


def resolve(node, namespace):
    """The object that a name or a dotted name means in a module, or None."""
    if isinstance(node, ast.Name):
        return namespace.get(node.id, getattr(builtins, node.id, None))
    if isinstance(node, ast.Attribute):
        return getattr(resolve(node.value, namespace), node.attr, None)
    return None


def code_of(thing):
    """The functions that run when something of the library is called."""
    if inspect.isclass(thing):
        made = (vars(thing).get(name) for name in ("__init__", "__post_init__", "__call__"))
        found = [f for f in made if inspect.isfunction(f)]
    else:
        found = [getattr(thing, "__func__", thing)]
    return [
        f
        for f in found
        if inspect.isfunction(f)
        and f.__module__.startswith("oto_jax")
        and not f.__code__.co_filename.startswith("<")  # what dataclasses makes
    ]


def namespace_of(function, tree):
    """What names mean in a function: its module's, and what it imports itself."""
    found = dict(function.__globals__)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("oto_jax"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if not hasattr(module, alias.name):
                    importlib.import_module(inner)
                found[alias.asname or alias.name] = getattr(module, alias.name)
    return found


def escaping(tree):
    """Every node but those whose errors are all caught, or turned into others, in place."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        inner = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Try):
            caught = {handler.type.id for handler in node.handlers if hasattr(handler.type, "id")}
            passed_on = any(
                isinstance(one, ast.Raise) and one.exc is None
                for handler in node.handlers
                for one in ast.walk(handler)
            )
            if caught & {"Exception", "OTOError"} and not passed_on:
                inner = [one for one in inner if one not in node.body]
        waiting += inner


def raised(thing):
    """The classes of errors that calling something raises, by the rule of this module."""
    errors, seen, waiting = set(), set(), code_of(thing)
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        namespace = namespace_of(function, tree)
        for node in escaping(tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                name = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                errors.add(resolve(name, namespace))
            if isinstance(node, ast.Call):
                waiting += code_of(resolve(node.func, namespace))
    return {
        error
        for error in errors
        if inspect.isclass(error) and issubclass(error, Exception) and error is not AssertionError
    }


def covering(error):
    """The names whose explanation will do for an error: its own, and those that it is one of."""
    above = {cls for cls in error.__mro__ if issubclass(cls, oto_jax.OTOError)}
    return {cls.__name__ for cls in (above - {oto_jax.OTOError}) | {error}}


def returns_nothing(function):
    return inspect.signature(function).return_annotation in (None, "None", type(None))


@pytest.mark.parametrize("name", PUBLIC | MEMBERS)
def test_there_is_a_docstring(name):
    thing = (PUBLIC | MEMBERS)[name]
    text = thing.__doc__
    assert text, f"{name} has none"
    assert not text.startswith(f"{thing.__name__}("), "only the one that Python makes"
    assert text.split("\n\n")[0].strip().endswith((".", ":")), "begin with a sentence"


@pytest.mark.parametrize("name", CALLABLE)
def test_every_parameter_is_explained(name):
    assert explained(CALLABLE[name], "Args") == parameters(CALLABLE[name])


@pytest.mark.parametrize("name", CALLABLE)
def test_what_is_returned_is_explained(name):
    text = sections(CALLABLE[name]).get("Returns", "").strip()
    assert bool(text) is not returns_nothing(CALLABLE[name])


@pytest.mark.parametrize("name", CALLABLE | RECORDS)
def test_every_error_is_explained(name):
    thing = (CALLABLE | RECORDS)[name]
    named = explained(thing, "Raises")
    missing = {error.__name__ for error in raised(thing) if not named & covering(error)}
    assert not missing
    assert named <= {cls.__name__ for cls in ERRORS.values()} | set(vars(builtins))


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_is_explained(name):
    assert explained(RECORDS[name], "Attributes") == fields(RECORDS[name])


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_who_raises_it(name):
    """And those say so too; nobody raises the base class itself."""
    cls = ERRORS[name]
    if cls is oto_jax.OTOError:
        return
    text = " ".join(cls.__doc__.split())
    found = re.search(r"Raised by (`oto_jax.*?)[.;]( |$)", text)
    assert found, "say 'Raised by' and the public functions, in backticks"
    for raiser in re.findall(r"`([\w.]+)`", found[1]):
        thing = PUBLIC[raiser.replace("oto_jax.plot.", "plot.")]
        assert {cls.__name__} <= explained(thing, "Raises"), raiser


@pytest.fixture(scope="module")
def collected(root):
    """The dotted names of the doctests that pytest collects in the library, as configured."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "oto_jax"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return {line.rsplit("::", 1)[-1] for line in done.stdout.splitlines() if "::" in line}


def test_the_library_is_among_what_is_tested(pytestconfig):
    assert "oto_jax" in pytestconfig.getini("testpaths")
    assert "--doctest-modules" in pytestconfig.getini("addopts")


@pytest.mark.parametrize("name", FUNCTIONS | RECORDS)
def test_an_example_is_run(name, collected):
    thing = (FUNCTIONS | RECORDS)[name]
    example = sections(thing).get("Example", "")
    assert ">>> " in example
    assert "doctest: +SKIP" not in example
    assert f"{thing.__module__}.{thing.__qualname__}" in collected


def test_the_rule_for_errors_sees_what_it_should():
    assert oto_jax.HyperparameterError in raised(oto_jax.find_zigs)  # in its own body
    assert oto_jax.UntraceableError in raised(oto_jax.find_zigs)  # in a function of its module
    assert oto_jax.NonFiniteParametersError in raised(oto_jax.make_plan)  # two modules away
    assert oto_jax.HyperparameterError in raised(oto_jax.Target)  # what a dataclass checks
    assert ValueError in raised(oto_jax.add_group_lasso)  # in the function that it returns
