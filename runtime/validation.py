"""YAML as it should be, and what pydantic finds in it as one sentence that names the file, the key and the mend."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


class NotYaml(ValueError):
    """A text is not YAML, or says something twice: `line 3: what is wrong; how to mend it`."""


BOOL, FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"


class _Unique(yaml.SafeLoader):
    """Refuses a key that is there twice: YAML itself keeps the last and says nothing. And takes `off` and `no` for
    text, `1e-3` for a number, as YAML 1.2 does."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - its type is the library's
        first: [(tag, pattern) for tag, pattern in found if tag not in (BOOL, FLOAT)]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise NotYaml(
                        f"line {key_node.start_mark.line + 1}: the key {shown(key)} is there twice; drop one of them"
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


_Unique.add_implicit_resolver(BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Unique.add_implicit_resolver(
    FLOAT,
    re.compile(
        r"([-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def read_yaml(data: bytes) -> object:
    """The one document in `data`. Raises NotYaml."""
    try:
        return yaml.load(data.decode("utf-8-sig"), _Unique)
    except NotYaml:
        raise
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise NotYaml(f"line {line}: is not UTF-8; save the file as UTF-8") from None
    except yaml.YAMLError as error:
        raise NotYaml(_fault(error)) from None
    except RecursionError:
        raise NotYaml("is nested too deeply; mend its brackets") from None
    except ValueError as error:  # from a tag's own reading, such as a date that there is not
        raise NotYaml(f"holds a value that cannot be read ({' '.join(str(error).split())}); put it in quotes") from None


def _fault(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if isinstance(error, yaml.reader.ReaderError):
        return f"is not YAML (it holds the character {error.character!r}); save it as plain text"
    if mark is None or problem is None:
        return f"is not YAML ({' '.join(str(error).split())}); mend it"
    place = f"line {mark.line + 1}"
    if "'\\t'" in problem:
        return f"{place}: is not YAML (it holds a tab); indent it with spaces"
    return f"{place}: is not YAML ({' '.join(problem.split())} at column {mark.column + 1}); mend that line"


def sentence(error: ValidationError, file: str, model: type[BaseModel], mend: str | None = None) -> str:
    """The first finding of `error` as `FILE: KEY: what is wrong; how to mend it`, and how many more there are.

    `model` is what was validated: its keys are what an unknown key may have meant. `mend` stands in for the
    finding's own, where a file is not written by hand.
    """
    findings = error.errors(include_url=False)
    first = findings[0]
    key, text = _key(first["loc"]), ""
    if first["type"] == "extra_forbidden":
        text, own = "there is no such key", choice(str(first["loc"][-1]), _fields(model, first["loc"][:-1]))
    elif first["type"] == "value_error":
        text, _, own = str(first["ctx"]["error"]).partition("; ")
    else:
        text, own = _finding(first)
    more = len({_key(f["loc"]) for f in findings}) - 1
    whole = f"{file}: {key + ': ' if key else ''}{text}; {mend or own or 'mend it'}"
    return f"{whole} (and {more} more to mend)" if more else whole


def choice(given: str, known: Iterable[str]) -> str:
    """What to write instead of `given`: the nearest of `known`, or one of them all."""
    known = list(known)
    near = get_close_matches(given.lower(), known, 1, 0.6)
    return f"did you mean {near[0]!r}?" if near else f"use one of {listed(known)}"


def shortened(value: object) -> str:
    """A found value for a sentence, cut at 40 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print whole numbers beyond some thousand digits
        text = "a huge number"
    return text if len(text) < 40 else text[:37] + "..."


def listed(names: Sequence[object], most: int = 12) -> str:
    """Names for a sentence: the first ones, and how many there are where that is not all."""
    shown_names = ", ".join(str(n)[:40] for n in names[:most])
    return shown_names + (f", ... ({len(names)} in all)" if len(names) > most else "") or "none"


def shown(value: object) -> str:
    """A value for a sentence: its text in one line, cut short."""
    text = "empty" if value is None else "true" if value is True else "false" if value is False else repr(value)
    return text if len(text) < 50 else text[:47] + "..."


_WORDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}


def _key(loc: tuple[int | str, ...]) -> str:
    # pydantic ends the place with the member of a union that did not fit, or with a mark for a key.
    if len(loc) > 2 and loc[-1] in (*_WORDS, "[key]"):
        loc = loc[:-1]
    return ".".join(str(part) for part in loc)


def _finding(first: ErrorDetails) -> tuple[str, str]:
    """What is wrong, and the mend, of the findings that pydantic has words of its own for."""
    kind, value, facts = first["type"], first["input"], first.get("ctx", {})
    last = first["loc"][-1] if first["loc"] else ""
    is_text = isinstance(value, str)
    found = f"is {shown(value)}"
    if kind == "missing":
        return "is missing", "add it"
    if kind == "literal_error" and last == "[key]":
        return "there is no such key", choice(str(value), _expected(facts))
    if kind == "invalid_key" or last == "[key]":
        return "the key is no text", "put it in quotes"
    if last in _WORDS and len(first["loc"]) > 2:
        return found, "give text, a number, or true or false"
    if kind.startswith("int_"):
        return found, "give a whole number" + (", without quotes" if is_text and value.strip().isdigit() else "")
    if kind.startswith("float_"):
        return found, "give a number"
    if kind == "finite_number":
        return found, "give a finite number"
    if kind.startswith("bool_"):
        return found, "give true or false"
    if kind in ("string_type", "path_type"):
        quotes = value is not None and not isinstance(value, dict | list)
        return found, ("give a path" if kind == "path_type" else "give text") + (", in quotes" if quotes else "")
    if kind == "literal_error":
        known = _expected(facts)
        if not is_text and str(value) in known:
            return found, f"put it in quotes: '{value}'"
        return found, choice(str(value), known)
    if kind == "list_type":
        return found, "give a list"
    if kind in ("dict_type", "model_type"):
        return found, "give a mapping of keys to values, or leave the key out"
    if kind == "too_short":
        return "is empty" if not value else found, f"give at least {facts['min_length']}"
    if kind == "string_too_short":
        return "is empty", "give some text"
    limits = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than"}
    limits["less_than_equal"] = "at most"
    if kind in limits:
        return found, f"give {limits[kind]} {next(iter(facts.values()))}"
    return f"{found}: {first['msg'][0].lower()}{first['msg'][1:]}", "mend it"


def _expected(facts: Mapping[str, Any]) -> list[str]:
    """The values that a literal may have, from pydantic's `'a', 'b' or 'c'`."""
    return [name.strip("'") for name in str(facts["expected"]).replace(" or ", ", ").split(", ")]


def _fields(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at `loc`."""
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            found = _model(model.model_fields[part].annotation)
            if found is not None:
                model = found
    return list(model.model_fields)


def _model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        if (found := _model(inner)) is not None:
            return found
    return None
