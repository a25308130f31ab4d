"""A checkpoint on disk: JSON and arrays in a directory that is written whole or not at all.

The directory holds ``plan.json`` and ``arrays/``, which is Orbax's. It is written under another
name beside its place, read back, compared, and only then renamed: what stands under the given name
is always whole.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as File
from typing import Any

import jax.numpy as jnp
import numpy as np

from oto_jax.errors import CheckpointError, OTOError
from oto_jax.zigs.partition import format_path

FORMAT = "oto_jax slim model"
VERSION = 1

PathLike = str | os.PathLike[str]


def check_place(path: PathLike, *, overwrite: bool) -> File:
    """The directory to write, as an absolute path.

    Raises:
      CheckpointError: if it is not in this file system, or something stands there that is not to
        be replaced.
    """
    _check_local(path)
    target = File(path).absolute()
    if target.exists() and not overwrite:
        raise CheckpointError(
            f"{target} exists already; choose another place, or save(..., overwrite=True)"
        )
    _check_replaceable(target)
    return target


def write(target: File, content: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> None:
    """Writes a checkpoint, in the place of the one that stands there, if any.

    Args:
      target: what `check_place` returned.
      content: JSON values; under ``"arrays"``, for each array its path, shape and dtype.
      arrays: in the order of those.

    Raises:
      CheckpointError: if it cannot be written, or does not read back as written. What stood there
        stays as it was.
    """
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


def read(path: PathLike) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The content and the arrays of a checkpoint, as they were written.

    Raises:
      CheckpointError: if it is missing, incomplete or damaged.
    """
    directory = File(path).absolute()
    content = _read_content(directory)
    return content, _read_arrays(directory, content)


def _check_local(path: PathLike) -> None:
    if "://" in os.fspath(path):
        raise CheckpointError(
            f"{path} is no place in this file system; save below a mounted folder, or copy from one"
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


def _write_content(directory: File, content: Mapping[str, Any]) -> None:
    """Writes ``plan.json``: the content, the checksums of the arrays' files, and its own."""
    about = {"format": FORMAT, "version": VERSION}
    content = {**about, **content, "files": _file_checksums(directory / "arrays")}
    document = {"sha256": _text_checksum(content), "content": content}
    with (directory / "plan.json").open("w", encoding="utf-8") as stream:
        json.dump(document, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


def _write_arrays(directory: File, arrays: Sequence[np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    tree = {str(number): array for number, array in enumerate(arrays) if array.size}
    with (
        _with_plain_name(directory) as plain,
        ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer,
    ):
        checkpointer.save(plain / "arrays", args=ocp.args.PyTreeSave(tree))


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


def _check_written(directory: File, arrays: Sequence[np.ndarray]) -> None:
    """Reads a checkpoint back and compares it with what was to be written, bit by bit."""
    content = _read_content(directory)
    entries = zip(content["arrays"], arrays, _read_arrays(directory, content), strict=True)
    for entry, wanted, found in entries:
        same = (wanted.dtype, wanted.shape) == (found.dtype, found.shape)
        if not same or wanted.tobytes() != found.tobytes():
            name = format_path(tuple(entry["path"]))
            raise _damaged(directory, f"{name!r} does not have the bytes written")


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
