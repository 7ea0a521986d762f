"""The machinery of a configuration: typed, frozen sections whose fields check their own values.

A section is a frozen dataclass that inherits from ``Section``; a field is declared with
``setting``, which holds its default, its meaning and what values it takes. Sections are declared
where they are used: those of networks in ``models/``, the others in ``data/`` and ``training/``.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar

from deblur_jax.errors import ConfigError
from deblur_jax.extensions import load_extensions

T = TypeVar("T")

_NONE = "none"
_BOOLEANS = {"true": True, "false": False}
Choices = Iterable[str] | Callable[[], Iterable[str]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field means, and which values it takes besides those of its type."""

    meaning: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: Choices | None = None

    def options(self) -> list[str]:
        """The choices; empty where every value of the type will do."""
        choices = self.choices() if callable(self.choices) else self.choices
        return list(choices or ())

    def complaint(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        if value is None:
            return None
        options = self.options()
        if options and value not in options:
            return f"choose from {', '.join(options)}"
        if isinstance(value, float) and not math.isfinite(value):
            return "it must be a finite number"
        for limit, holds, words in (
            (self.at_least, lambda limit: value >= limit, "at least"),
            (self.above, lambda limit: value > limit, "above"),
            (self.at_most, lambda limit: value <= limit, "at most"),
            (self.below, lambda limit: value < limit, "below"),
        ):
            if limit is not None and not holds(limit):
                return f"it must be {words} {limit:g}"
        return None


def setting(
    default: T,
    meaning: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: Choices | None = None,
) -> T:
    """Declares a field of a section.

    Args:
        default: its value where none is given.
        meaning: one line for the help.
        at_least: the least that a number may be.
        above: what a number must be above.
        at_most: the most that a number may be.
        below: what a number must be below.
        choices: the names that a string may be, or a function that returns them.
    """
    rule = Rule(meaning, at_least, above, at_most, below, choices)
    return dataclasses.field(default=default, metadata={"rule": rule})


def subsection(default_factory: Callable[[], T]) -> T:
    """Declares a field that is a section itself."""
    return dataclasses.field(default_factory=default_factory)


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a configuration, checked when it is built."""

    section: ClassVar[str] = ""
    """Its name in the whole configuration, as "optimizer"; empty for the whole."""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ConfigError: naming the field, the value and what it must be.
        """
        for field, hint in _fields(type(self)):
            value = getattr(self, field.name)
            name = _joined(self.section, field.name)
            if float in _alternatives(hint) and type(value) is int:
                value = float(value)
                object.__setattr__(self, field.name, value)
            if not _fits(value, hint):
                raise ConfigError(f"config.{name} can't be {value!r}: it must be {_words(hint)}")
            rule = rule_of(field)
            complaint = rule and rule.complaint(value)
            if complaint:
                raise ConfigError(f"config.{name} can't be {value!r}: {complaint}")

    def to_dict(self) -> dict[str, Any]:
        """The section as nested dicts of JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value.to_dict() if isinstance(value, Section) else value
            for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of ``to_dict``; fields that are left out have their defaults.

        Raises:
            ConfigError: for an unknown field or a value that can't be.
        """
        hints = {field.name: hint for field, hint in _fields(cls)}
        for name in values:
            if name not in hints:
                raise ConfigError(unknown_field(_joined(cls.section, name), cls.names()))
        return cls(
            **{
                name: hints[name].from_dict(value) if _is_section(hints[name]) else value
                for name, value in values.items()
            }
        )

    def with_overrides(self, texts: Mapping[str, str]) -> Self:
        """The section with some values replaced, as the command line gives them.

        Args:
            texts: values by the names of fields, as "optimizer.learning_rate".

        Raises:
            ConfigError: for an unknown field or a value that can't be.
        """
        inner: dict[str, dict[str, str]] = {}
        replaced: dict[str, Any] = {}
        hints = {field.name: hint for field, hint in _fields(type(self))}
        for name, text in texts.items():
            first, _, rest = name.partition(".")
            if first not in hints or bool(rest) != _is_section(hints[first]):
                raise ConfigError(unknown_field(_joined(self.section, name), self.names()))
            if rest:
                inner.setdefault(first, {})[rest] = text
            else:
                replaced[first] = parse(text, hints[first], _joined(self.section, name))
        for name, of_section in inner.items():
            replaced[name] = getattr(self, name).with_overrides(of_section)
        return dataclasses.replace(self, **replaced)

    @classmethod
    def names(cls) -> list[str]:
        """Every field that can be set, by its dotted name in the whole configuration."""
        found = []
        for field, hint in _fields(cls):
            if _is_section(hint):
                found += hint.names()
            else:
                found.append(_joined(cls.section, field.name))
        return found


def settings(section: Section) -> Iterator[tuple[str, Any, Any, Rule | None]]:
    """Every field of a section and those inside it: dotted name, type, value and rule."""
    for field, hint in _fields(type(section)):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            yield from settings(value)
        else:
            yield _joined(section.section, field.name), hint, value, rule_of(field)


def rule_of(field: dataclasses.Field) -> Rule | None:
    """The rule that a field was declared with; None if it was declared without ``setting``."""
    return field.metadata.get("rule")


def parse(text: str, hint: Any, name: str) -> Any:
    """A value from the command line, in the type of its field.

    Raises:
        ConfigError: if the text is no such value.
    """
    options = _alternatives(hint)
    if types.NoneType in options and text.lower() == _NONE:
        return None
    if bool in options and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    for kind in (int, float):
        if kind in options:
            try:
                return kind(text)
            except ValueError:
                continue
    if str in options:
        return text
    raise ConfigError(f"--config.{name}={text}: it must be {_words(hint)}")


def unknown_field(name: str, known: Iterable[str]) -> str:
    """One line for a field that does not exist, with the nearest that do."""
    known = list(known)
    section, _, last = name.rpartition(".")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
    near += [k for k in known if _last(k) == last]
    near += [k for k in known if last in _last(k).split("_")]
    near += [k for k in known if last == "".join(part[0] for part in _last(k).split("_"))]
    near += difflib.get_close_matches(name, known, n=1)
    if not near:
        near = [k for k in known if k.rpartition(".")[0] == section] or known
    return f"config.{name} does not exist; did you mean {', '.join(dict.fromkeys(near))}?"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


class Table(Generic[T]):
    """Things that a configuration chooses by name; programs of users may add their own.

    Args:
        kind: what they are, for messages: "network".
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Adds an entry.

        Raises:
            ConfigError: if the name is taken by another one.
        """
        if self._entries.get(name, entry) is not entry:
            raise ConfigError(f"the {self.kind} {name!r} is registered already")
        self._entries[name] = entry

    def names(self) -> list[str]:
        """All names, in the order in which they were added."""
        load_extensions()
        return list(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            load_extensions()
        if name not in self._entries:
            raise ConfigError(
                f"{self.kind} {name!r} is not registered: choose from {', '.join(self._entries)}, "
                "or name the module that registers it with --import"
            )
        return self._entries[name]

    def items(self) -> list[tuple[str, T]]:
        """All names and entries."""
        load_extensions()
        return list(self._entries.items())


def _fields(cls: type) -> list[tuple[dataclasses.Field, Any]]:
    hints = typing.get_type_hints(cls)
    return [(field, hints[field.name]) for field in dataclasses.fields(cls)]


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Section)


def _joined(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


def _alternatives(hint: Any) -> tuple[Any, ...]:
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    options = _alternatives(hint)
    if isinstance(value, bool):
        return bool in options
    return any(isinstance(value, option) for option in options)


def _words(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return " or ".join(
        "none" if option is types.NoneType else words.get(option, option.__name__)
        for option in _alternatives(hint)
    )
