"""Reads YAML exactly as kubectl does, and writes readable YAML. It does not interpret the documents.

PyYAML and kubectl parse plain scalars differently: PyYAML reads `1e-3` and `y` as strings, `2026-01-01` as a date and `1:30` as
90, and of two equal keys it keeps the last. A manifest must mean the same on a laptop and in a cluster, so we follow kubectl.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

import yaml

_NUMBERS: Final = {
    "tag:yaml.org,2002:int": re.compile(r"^[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"^([-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
}
_REPLACED: Final = {*_NUMBERS, "tag:yaml.org,2002:timestamp"}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with kubectl's rules for plain scalars and duplicate keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own registry
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} occurs twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_bool(self, node: yaml.ScalarNode) -> bool:
        return bool(self.bool_values[{"y": "yes", "n": "no"}.get(node.value.lower(), node.value.lower())])


_Loader.add_constructor("tag:yaml.org,2002:bool", _Loader.construct_yaml_bool)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which folds long text instead of quoting it over several lines."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = (
        "|" if "\n" in value else ">" if len(value) > _FOLD and value == value.strip() and "  " not in value else None
    )
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_FOLD: Final = 70
_Dumper.add_representer(str, _text)

_YES_OR_NO: Final = re.compile(r"^[yYnN]$")
for _class in (_Loader, _Dumper):
    # The dumper needs the patterns too, so that it quotes strings that would be read as another type.
    for _tag, _pattern in _NUMBERS.items():
        _class.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))
    _class.add_implicit_resolver("tag:yaml.org,2002:bool", _YES_OR_NO, list("yYnN"))


def load(text: str) -> list[Any]:
    """Return the documents of a YAML text, without empty ones.

    Raises:
        yaml.YAMLError: It is not YAML, or a key occurs twice.
    """
    return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]


def dump(document: Any) -> str:
    """Return the document as YAML, with keys in the given order. The output is deterministic."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def dump_all(documents: Iterable[Any]) -> str:
    """Return several documents as one YAML text."""
    return "---\n".join(map(dump, documents))
