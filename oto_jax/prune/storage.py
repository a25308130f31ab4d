"""`save` and `load`: the plan as JSON, the arrays through Orbax, nothing pickled.

A checkpoint is a directory with ``plan.json`` and ``arrays/``. It is written under another name
beside its place, read back, compared, and only then renamed: what stands under the given name is
always whole.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path as File
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.errors import CheckpointError, OTOError
from oto_jax.prune.fingerprint import contradict, fingerprint
from oto_jax.prune.framework import framework_of
from oto_jax.prune.plan import Plan
from oto_jax.prune.prune import Pruned
from oto_jax.prune.tree_text import read_skeleton, skeleton
from oto_jax.prune.zero_units import host_values
from oto_jax.zigs.partition import Path, format_path, leaves_by_path

FORMAT = "oto_jax slim model"
VERSION = 1

PathLike = str | os.PathLike[str]


def save(path: PathLike, pruned: Pruned, *, overwrite: bool = False) -> None:
    """Writes a slim model: its plan as JSON, its arrays through Orbax.

    Args:
      path: the directory to make.
      pruned: what `prune` returned; its variables may have been trained further.
      overwrite: replace a checkpoint that is already there, once the new one is whole. Anything
        else that stands there stays, and is an error.

    Raises:
      CheckpointError: if something stands at ``path`` already, or cannot be written, or does not
        read back as written. What stood there stays as it was.
      ZIGMismatchError: if the variables hold no values.

    Example:
      >>> import tempfile, jax, jax.numpy as jnp, oto_jax, flax.linen as nn
      >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
      >>> x = jnp.ones((1, 3))
      >>> variables = model.init(jax.random.key(0), x)
      >>> slim = oto_jax.prune(model, variables, oto_jax.find_zigs(model, variables, x))
      >>> place = tempfile.mkdtemp() + "/slim"
      >>> oto_jax.save(place, slim)
      >>> again = oto_jax.load(place, model)
      >>> bool((again.model.apply(again.variables, x) == slim.model.apply(slim.variables, x)).all())
      True
    """
    _check_local(path)
    target = File(path).absolute()
    if target.exists() and not overwrite:
        raise CheckpointError(
            f"{target} exists already; choose another place, or save(..., overwrite=True)"
        )
    _check_replaceable(target)
    arrays = _host_arrays(pruned.variables)
    _check_slim(pruned)
    content = _content(pruned, arrays)
    try:
        with _sibling(target) as partial:
            _write_arrays(partial, arrays)
            _write_content(partial, content)
            _check_written(partial, arrays)
            _replace(partial, target)
    except OTOError as error:
        raise CheckpointError(f"{target} was not written, for {error}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{target} could not be written ({error}); what stood there is as it was"
        ) from error


def load(path: PathLike, model: Any) -> Pruned:
    """The slim model that `save` wrote, rebuilt from the full model's object.

    Args:
      path: the checkpoint's directory.
      model: the full model, built as it was for `prune`; its own weights play no part.

    Returns:
      Model, variables (plain dictionaries for Linen) and plan as they were saved.

    Raises:
      CheckpointError: if the checkpoint is missing, incomplete, damaged, or of another model: the
        message names the first array that differs; or says that a model of the same shapes
        computes something else, which is told where JAX, Flax and their settings are the same.

    Example:
      >>> import tempfile, jax, jax.numpy as jnp, oto_jax, flax.linen as nn
      >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
      >>> x = jnp.ones((1, 3))
      >>> variables = model.init(jax.random.key(0), x)
      >>> slim = oto_jax.prune(model, variables, oto_jax.find_zigs(model, variables, x))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     oto_jax.save(f"{folder}/slim", slim)
      ...     again = oto_jax.load(f"{folder}/slim", model)
      >>> bool((again.model.apply(again.variables, x) == slim.model.apply(slim.variables, x)).all())
      True
    """
    document, arrays = _read(File(path).absolute())
    plan = Plan.from_json(document["plan"])
    match framework_of(model):
        case "linen":
            return _load_linen(document, arrays, model, plan)
        case "nnx":
            from oto_jax.prune import nnx

            _check_shapes(plan, leaves_by_path(nnx.state_of(model)))
            slim = nnx.restore(model, plan, arrays)
            pruned = Pruned(slim, nnx.state_of(slim), plan)
            _check_program(document, pruned)
            return pruned
    _check_class(document, model)
    return Pruned(model, read_skeleton(document["tree"], arrays), plan)


def _load_linen(
    document: Mapping[str, Any], arrays: Mapping[Path, Any], model: Any, plan: Plan
) -> Pruned:
    from oto_jax.prune import linen

    if plan.call is None:  # Then the model's class is all there is to go by.
        _check_class(document, model)
    initial = linen.initial_shapes(model, plan.call) if plan.call else None
    if initial is not None:
        _check_shapes(plan, initial)
    variables = read_skeleton(document["tree"], arrays)
    try:
        slim = linen.restore(model, plan)
        if plan.call:
            linen.program(slim, variables, plan.call).shapes(plan.call.arrays())
    except Exception as error:  # Whatever a user's module raises on variables of another model.
        raise CheckpointError(
            f"the checkpoint does not fit this {type(model).__name__}: {error}; load it into the"
            " model that was pruned"
        ) from error
    pruned = Pruned(slim, variables, plan)
    _check_program(document, pruned)
    return pruned


def _check_program(document: Mapping[str, Any], pruned: Pruned) -> None:
    """Where both can be traced alike, the model has to compute what the saved one did."""
    saved, found = document.get("program"), _program(pruned)
    if saved and found and contradict(saved, found):
        raise CheckpointError(
            f"this {type(pruned.model).__name__} has the shapes of the model that was pruned, but"
            " computes something else; load the checkpoint into that model"
        )


def _program(pruned: Pruned) -> dict[str, Any] | None:
    """The fingerprint of the slim model on the call that it was found with.

    None where there is no call, or variables that it reads are not there.
    """
    call, framework = pruned.plan.call, framework_of(pruned.model)
    if call is None or not pruned.plan.by_path.keys() <= leaves_by_path(pruned.variables).keys():
        return None
    match framework:
        case "linen":
            from oto_jax.prune import linen

            return fingerprint(linen.program(pruned.model, pruned.variables, call), call)
        case "nnx":
            from oto_jax.prune import nnx

            return fingerprint(nnx.program(nnx.evaluating(pruned.model), call), call)
    return None


def _check_class(document: Mapping[str, Any], model: Any) -> None:
    saved, given = document["model"], type(model).__name__
    if saved != given:
        what = f"the class {model.__name__} itself" if isinstance(model, type) else f"a {given}"
        raise CheckpointError(
            f"the checkpoint is of a {saved}, not of {what}; load it into the model that was pruned"
        )


def _check_shapes(plan: Plan, model: Mapping[Path, Any]) -> None:
    """Compares the full model's arrays with those the plan was made for."""
    wanted = {array.path: array.shape for array in plan.arrays}
    for path in sorted(wanted.keys() | model.keys()):
        given = tuple(np.shape(model[path])) if path in model else "absent"
        if given != wanted.get(path, "absent"):
            raise CheckpointError(
                f"{format_path(path)!r} is {given} in this model and"
                f" {wanted.get(path, 'absent')} in the one that was pruned; load the checkpoint"
                " into that model"
            )


def _host_arrays(variables: Any) -> dict[Path, np.ndarray]:
    return {path: _bits(path, leaf) for path, leaf in leaves_by_path(variables).items()}


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _bits(path: Path, leaf: Any) -> np.ndarray:
    return host_values(path, jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _content(pruned: Pruned, arrays: Mapping[Path, np.ndarray]) -> dict[str, Any]:
    """All that is written as JSON, but for the checksums."""
    implementations = {
        path: str(jax.random.key_impl(leaf))
        for path, leaf in leaves_by_path(pruned.variables).items()
        if _is_key(leaf)
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": type(pruned.model).__name__,
        "program": _program(pruned),
        "plan": pruned.plan.to_json(),
        "tree": skeleton(pruned.variables),
        "arrays": [
            {
                "path": path,
                "shape": array.shape,
                "dtype": array.dtype.name,
                "key": implementations.get(path),
            }
            for path, array in arrays.items()
        ],
    }


def _file_checksums(directory: File) -> dict[str, str]:
    """SHA-256 of every file below a directory, by its relative path."""
    found = {}
    for file in sorted(directory.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256")
            found[file.relative_to(directory).as_posix()] = digest.hexdigest()
    return found


def _text_checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _sibling(target: File) -> Iterator[File]:
    """A new directory beside ``target``; removed at the end unless it was renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.writing-{secrets.token_hex(8)}")
    partial.mkdir()  # With the rights that the user's directories have, as mkdtemp's have not.
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_content(directory: File, content: dict[str, Any]) -> None:
    """Writes ``plan.json``: the content, the checksums of the arrays' files, and its own."""
    content = {**content, "files": _file_checksums(directory / "arrays")}
    document = {"sha256": _text_checksum(content), "content": content}
    with (directory / "plan.json").open("w", encoding="utf-8") as stream:
        json.dump(document, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


def _check_written(directory: File, arrays: Mapping[Path, np.ndarray]) -> None:
    """Reads a checkpoint back and compares it with what was to be written, bit by bit."""
    content = _read_content(directory)
    for (path, wanted), found in zip(arrays.items(), _read_arrays(directory, content), strict=True):
        same = (wanted.dtype, wanted.shape) == (found.dtype, found.shape)
        if not same or wanted.tobytes() != found.tobytes():
            raise _damaged(directory, f"{format_path(path)!r} does not have the bytes written")


@contextlib.contextmanager
def _with_plain_name(directory: File) -> Iterator[File]:
    """The directory by a plain name.

    Orbax reads ``lr=[0.1]`` as a glob pattern, and TensorStore ``a\\b`` as two folders.
    """
    if glob.escape(str(directory)) == str(directory) and "\\" not in str(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory() as folder:
        link = File(folder) / "link"
        link.symlink_to(directory, target_is_directory=True)
        yield link


def _write_arrays(directory: File, arrays: Mapping[Path, np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    tree = {str(number): array for number, array in enumerate(arrays.values()) if array.size}
    with (
        _with_plain_name(directory) as plain,
        ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer,
    ):
        checkpointer.save(plain / "arrays", args=ocp.args.PyTreeSave(tree))


def _check_local(path: PathLike) -> None:
    if "://" in os.fspath(path):
        raise CheckpointError(
            f"{path} is no place in this file system; save below a mounted folder, or copy from one"
        )


def _check_slim(pruned: Pruned) -> None:
    """Compares the variables with what the plan leaves of the full model's."""
    by_path = pruned.plan.by_path
    for path, leaf in leaves_by_path(pruned.variables).items():
        given = tuple(np.shape(leaf))
        if path in by_path and given != by_path[path].slim_shape:
            raise CheckpointError(
                f"{format_path(path)!r} has shape {given}, and in the slim model"
                f" {by_path[path].slim_shape}: save that model's own variables"
            )


def _check_replaceable(target: File) -> None:
    """Nothing but a checkpoint, whole or damaged, or an empty directory may be replaced."""
    if target.is_dir() and (_holds_checkpoint_only(target) or not any(target.iterdir())):
        return
    if target.exists() or target.is_symlink():
        raise CheckpointError(
            f"what stands at {target} is no checkpoint of a slim model, or not only that, and is"
            " left as it is; choose another place"
        )


def _holds_checkpoint_only(directory: File) -> bool:
    """Whether nothing of anybody else lies there; what was written may be damaged."""
    plan = directory / "plan.json"
    others = {file.name for file in directory.iterdir()} - {plan.name, "arrays"}
    return not others and plan.is_file() and FORMAT.encode() in plan.read_bytes()


def _replace(partial: File, target: File) -> None:
    """Puts the new directory in the place of the old one, which is moved aside until then."""
    if not target.exists():
        partial.rename(target)
        return
    aside = File(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
    old = aside / target.name
    try:
        target.rename(old)
        partial.rename(target)
    finally:  # Whatever came between them, an interrupt too, one of the two stands there.
        if not target.exists():
            old.rename(target)
        shutil.rmtree(aside, ignore_errors=True)


def _read(directory: File) -> tuple[dict[str, Any], dict[Path, Any]]:
    """The checked JSON content, and the arrays by path."""
    content = _read_content(directory)
    arrays: dict[Path, Any] = {}
    for entry, array in zip(content["arrays"], _read_arrays(directory, content), strict=True):
        key = entry["key"]
        arrays[tuple(entry["path"])] = (
            jax.random.wrap_key_data(jnp.asarray(array), impl=key) if key else array
        )
    return content, arrays


def _read_content(directory: File) -> dict[str, Any]:
    file = directory / "plan.json"
    try:
        is_there = directory.is_dir()
    except OSError as error:  # Such as of a name that is too long.
        raise CheckpointError(f"{directory} cannot be read ({error})") from error
    if not is_there:
        raise CheckpointError(f"there is no checkpoint at {directory}{_leftovers(directory)}")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        content, checksum = document["content"], document["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(directory, f"plan.json cannot be read ({error})") from error
    if _text_checksum(content) != checksum:
        raise _damaged(directory, "plan.json is not as it was written")
    if content["format"] != FORMAT or content["version"] > VERSION:
        raise CheckpointError(
            f"{directory} is of format {content['format']!r}, version {content['version']}; this"
            f" release reads {FORMAT!r} up to version {VERSION}: update oto_jax"
        )
    return dict(content)


def _read_arrays(directory: File, content: Mapping[str, Any]) -> list[np.ndarray]:
    """The arrays in the order of the content, after a check of the files they lie in."""
    import orbax.checkpoint as ocp

    given, wanted = _file_checksums(directory / "arrays"), content["files"]
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            how = "is missing" if name not in given else "is not as it was written"
            raise _damaged(directory, f"arrays/{name} {how}")
    entries = content["arrays"]
    names = {
        str(number): ocp.RestoreArgs(restore_type=np.ndarray)
        for number, entry in enumerate(entries)
        if 0 not in entry["shape"]
    }
    try:
        with (
            _with_plain_name(directory) as plain,
            ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer,
        ):
            options = ocp.args.PyTreeRestore(restore_args=names)
            tree = checkpointer.restore(plain / "arrays", args=options)
    except Exception as error:  # Orbax and TensorStore raise errors of many kinds.
        raise _damaged(directory, f"Orbax cannot read the arrays ({error})") from error
    return [
        np.asarray(tree[str(number)])
        if str(number) in names
        else np.zeros(entry["shape"], jnp.dtype(entry["dtype"]))
        for number, entry in enumerate(entries)
    ]


def _damaged(directory: File, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {directory} is incomplete or damaged: {reason}; save the slim model"
        " again, or prune once more from the full checkpoint"
    )


def _leftovers(directory: File) -> str:
    """A hint at what an interrupted `save` left beside the place."""
    name = glob.escape(directory.name)
    old = list(directory.parent.glob(f".{name}.old-*/{name}"))
    if old:
        return f"; a save was interrupted, and the one before it is whole: rename {old[0]}"
    if list(directory.parent.glob(f".{name}.writing-*")):
        return "; a save was interrupted there before it was complete: save again"
    return ""
