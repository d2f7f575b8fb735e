"""docs/config.md and docs/config.schema.json: made from the configuration's own models, so that they cannot differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trimtab.runtime.config import Config, json_schema

HEAD = """\
# Configuration

<!-- Made by `trimtab config docs` from runtime/config.py; edit the descriptions there. -->

One YAML file configures a daemon (`trimtab run config.yaml`) or a replay (`trimtab replay ... --config config.yaml`).
Paths in it are relative to its folder. Unknown keys are errors. `trimtab config check FILE` says in one sentence what
is wrong with a file; `trimtab config schema` prints a JSON Schema for editors, which is also kept as
[config.schema.json](config.schema.json): an editor with a YAML language server uses it for a file that begins with

```yaml
# yaml-language-server: $schema=PATH/TO/config.schema.json
```

The smallest file that the daemon runs:

```yaml
bundle: watch-bundle
streams:
  - topic: sensors/+/imu
```
"""


def markdown() -> str:
    """The text of docs/config.md."""
    return HEAD + "".join(_section("", Config))


def schema_text() -> str:
    """The text of docs/config.schema.json."""
    return json.dumps(json_schema(), indent=2) + "\n"


def _section(path: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"\n## {f'`{path}`' if path else 'The file'}\n"
    yield "\n| key | type | default | meaning |\n|---|---|---|---|\n"
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        found = _model(field.annotation)
        where = f"{path}.{name}" if path else name
        meaning = (field.description or "").replace("|", "\\|")
        if found is not None:
            many = get_origin(field.annotation) is list
            inner.append((f"{where}[]" if many else where, found))
            link = f"see [`{inner[-1][0]}`](#{_anchor(inner[-1][0])})"
            meaning = f"{meaning} {link[0].upper() + link[1:]}.".strip()
        yield f"| `{name}` | {_type(field)} | {_default(field)} | {meaning} |\n"
    for where, found in inner:
        yield from _section(where, found)


def _anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return "".join(c for c in heading.lower() if c.isalnum() or c in "-_")


def _model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        if (found := _model(part)) is not None:
            return found
    return None


def _type(field: FieldInfo) -> str:
    text = _name(field.annotation)
    bounds = []
    for item in field.metadata:
        for sign, key in (("≥", "ge"), (">", "gt"), ("≤", "le"), ("<", "lt")):
            if (bound := getattr(item, key, None)) is not None:
                bounds.append(f"{sign} {bound}")
    return text + (f", {', '.join(bounds)}" if bounds else "")


def _name(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _name(parts[0])
    if origin is Literal:
        return " \\| ".join(f"`{p}`" for p in parts)
    if origin is list:
        return f"list of {_name(parts[0])}"
    if origin is dict:
        return "mapping"
    if origin is Union or type(annotation).__name__ == "UnionType":
        return " or ".join(_name(p) for p in parts if p is not type(None))
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            return "section"
        names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path"}
        return names.get(annotation.__name__, annotation.__name__)
    return str(annotation)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.default_factory is None else ""
    value = field.default
    if value is None or isinstance(value, BaseModel):
        return ""
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        value = [item.model_dump(exclude_defaults=True) for item in value]
    return f"`{json.dumps(value)}`"
