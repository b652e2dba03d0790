"""Imports the user's own classes and functions, from the folder of `spec.code` or from the worker image."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainwright.api.names import CODE_MOUNT
from trainwright.api.spec import TrainingJobSpec
from trainwright_worker.errors import UserError, WorkerError, explain


def add_code(spec: TrainingJobSpec, root: str) -> None:
    """Put the folder of the job's own code first on the import path of this process.

    Args:
        spec: The job.
        root: Folder that a relative path is resolved against.

    Raises:
        UserError: The folder does not exist.
    """
    if spec.code is None:
        return
    folder = Path(CODE_MOUNT) if spec.code.path is None else Path(root, spec.code.path)
    if not folder.is_dir():
        raise UserError(f"spec.code.path: there is no folder {folder}", "mount the volume that holds it")
    sys.path.insert(0, str(folder))


def import_own(path: str, field: str) -> Any:
    """Return the class or function with an import path such as `nets:UNet`.

    Args:
        path: The module, a colon, and the name in it.
        field: Field of the spec that error messages name.

    Raises:
        UserError: The module cannot be imported, or has no such name.
    """
    module, _, names = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise _import_error(field, module, error) from error
        raise UserError(
            f"{field}: no module {error.name} in the folder of spec.code or in the worker image",
            "set spec.code to the folder or the ConfigMap that holds it",
        ) from error
    except (Exception, SystemExit) as error:
        raise _import_error(field, module, error) from error
    for name in names.split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, dir(found), n=1)
            raise UserError(
                f"{field}: {module} has no {name}{f'; did you mean {near[0]}?' if near else ''}",
                "name a class or function that the module defines",
            )
        found = getattr(found, name)
    if not callable(found):
        raise UserError(f"{field}: {path} is of type {type(found).__name__}, not a class or function")
    return found


def check_arguments(function: Callable[..., Any], args: Mapping[str, Any], path: str, field: str) -> None:
    """Check that a class or function takes these keyword arguments and needs no others.

    Raises:
        UserError: It does not. The message names the parameters that it has.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # The call itself will show it.
    try:
        signature.bind(**args)
    except TypeError as error:
        takes = ", ".join(map(str, signature.parameters.values())) or "no arguments"
        raise UserError(f"{field}: {error}", f"{path} takes: {takes}") from None


def blame(error: Exception, field: str, path: str, doing: str) -> Exception:
    """Return an error that the user's code has raised as a UserError, unless it is a known failure of something else.

    Args:
        error: The exception.
        field: Field of the spec that names the code.
        path: Import path of the code.
        doing: What the code failed at, such as `could not be built`.
    """
    if type(explain(error)) is not WorkerError or "CUDA error" in str(error):
        return error
    return UserError(f"{field}: {path} {doing}: {_text(error)}", "the traceback shows the line")


def _import_error(field: str, module: str, error: BaseException) -> UserError:
    return UserError(f"{field}: the import of {module} failed: {_text(error)}", "the traceback shows the line")


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".removesuffix(": ")
