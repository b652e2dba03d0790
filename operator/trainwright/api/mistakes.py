"""Translates pydantic's errors into our own messages, so that all mistakes in a manifest are worded alike."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import ErrorDetails

UNKNOWN: Final = "unknown field"
NO_STRING: Final = "must be a string"
REQUIRED: Final = "is required"

_MESSAGES: Final = {
    "extra_forbidden": UNKNOWN,
    "missing": REQUIRED,
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items, has {actual_length}",
    "too_long": "must have at most {max_length} items, has {actual_length}",
    "string_pattern_mismatch": "must match {pattern}",
}
WITHOUT_DOTS: Final = "must not contain ..: write an absolute path instead"


def message_of(detail: ErrorDetails) -> str:
    """Return the message for an error, without the value that was found."""
    kind, found, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "string_type":
        return no_string(found)
    if kind == "string_pattern_mismatch" and ".." in str(found) and r"\.?$" in context.get("pattern", ""):
        # This pattern is the one for paths, and `..` is the only thing that it forbids.
        return WITHOUT_DOTS
    if kind == "string_too_short" and context.get("min_length") == 1:
        return "must not be empty"
    return _MESSAGES[kind].format_map(_plain(context)) if kind in _MESSAGES else detail["msg"]


def no_string(found: Any) -> str:
    """Return the message for a value that should have been a string."""
    if isinstance(found, bool):
        words = "y, yes and on" if found else "n, no and off"
        return f"{NO_STRING} (YAML reads {words} as {str(found).lower()}: put it in quotes)"
    if isinstance(found, int | float):
        return f"{NO_STRING} (put the number in quotes)"
    if isinstance(found, Mapping) and isinstance(found.get("name"), str):
        # Some pod fields, such as imagePullSecrets, are lists of such mappings.
        return f"must be the name itself, {found['name']!r}, not a mapping"
    return NO_STRING


def found_text(value: Any) -> str:
    """Return a value as it is written in YAML: true, not True."""
    return repr(value).lower() if isinstance(value, bool) else repr(value)


def _plain(context: Mapping[str, Any]) -> dict[str, Any]:
    return {name: f"{value:,}" if isinstance(value, int) else value for name, value in context.items()}
