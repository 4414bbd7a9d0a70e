"""Fields of specifications: how their ranges are written and checked, and how a reader's own parts are found."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any


def check(name: str, right: bool, value: object, wanted: str) -> None:
    """Raise a ``ValueError`` that names a setting, its value and what it must be, unless it is right.

    >>> check("beta", -1.0 > 0, -1.0, "above 0")
    Traceback (most recent call last):
        ...
    ValueError: beta is -1.0; it must be above 0
    """
    if not right:
        raise ValueError(f"{name} is {value!r}; it must be {wanted}")


class Options(dict[str, Any]):
    """Keyword arguments in a specification: a dict that cannot be changed, can be hashed, and equals what is written alike.

    >>> Options(concentration=2.0) == {"concentration": 2.0}, Options(concentration=2.0) == {"concentration": 2}
    (True, False)
    """

    def _text(self) -> str:
        return json.dumps(self, sort_keys=True, default=repr)

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self._text())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self._text() == Options(other)._text()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __reduce__(self) -> tuple[Any, ...]:
        return Options, (dict(self),)

    def _refuse(self, *_: object, **__: object) -> typing.NoReturn:
        raise TypeError(
            "options of a specification cannot be changed: make a new one with dataclasses.replace"
        )

    __setitem__ = __delitem__ = update = setdefault = pop = popitem = clear = __ior__ = _refuse


def setting(
    default: Any = dataclasses.MISSING,
    *,
    low: int | float | None = None,
    above: int | float | None = None,
    high: int | float | None = None,
    among: Sequence[str] | None = None,
    names_run: bool = True,
) -> Any:
    """A dataclass field with the range that :func:`check_fields` holds it to; bounds concern numbers, ``among`` texts.

    A field with ``names_run=False`` decides no number and is left out of the name of a run's folder.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Toy:
    ...     rate: float = setting(1e-3, above=0)
    ...     def __post_init__(self):
    ...         check_fields(self)
    >>> Toy(rate=True)
    Traceback (most recent call last):
        ...
    ValueError: rate is True; it must be a finite number above 0
    """
    bounds = {"at least {:g}": low, "above {:g}": above, "at most {:g}": high}
    metadata = {"bounds": bounds, "among": among, "names_run": names_run}
    return dataclasses.field(default=default, metadata=metadata)


def check_fields(spec: Any) -> None:
    """Hold every field of a specification to its type and range; raises ``ValueError`` for the first that is wrong.

    Whole numbers in the place of real ones become real, so that equal specifications are written alike; mappings become
    :class:`Options`.
    """
    hints = _hints(type(spec))
    for field in dataclasses.fields(spec):
        value = _checked(field, hints[field.name], getattr(spec, field.name))
        object.__setattr__(spec, field.name, value)


_hints: Any = functools.cache(typing.get_type_hints)  # which compiles every annotation anew


def _checked(field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (typing.get_origin(hint) or hint,)
    bounds = {text: bound for text, bound in field.metadata.get("bounds", {}).items() if bound is not None}
    among = field.metadata.get("among")
    wanted = " or ".join(_KIND_NAMES.get(kind, kind.__name__) for kind in kinds)
    wanted = " ".join([wanted, " and ".join(map(str.format, bounds, bounds.values()))]).strip()
    if float in kinds and type(value) is int and abs(value) < 2**53:
        value = float(value)
    right = type(value) in kinds
    if Mapping in kinds and isinstance(value, Mapping):
        right = _survives_json(dict(value))
        value = Options(json.loads(json.dumps(value))) if right else value  # a copy that nobody else changes
    if right and type(value) in (int, float):
        right = math.isfinite(value) if type(value) is float else True
        right = right and all(_HOLDS[text](value, bound) for text, bound in bounds.items())
    if right and type(value) is str:
        right = value in among if among else bool(value.strip())
    check(field.name, right, value, f"one of {', '.join(among)}" if among else wanted)
    return value


_KIND_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "a text that is not empty",
    bool: "True or False",
    type(None): "None",
    Mapping: 'a mapping of names (but "class") to values that JSON can hold',
}
_HOLDS = {
    "at least {:g}": lambda value, bound: value >= bound,
    "above {:g}": lambda value, bound: value > bound,
    "at most {:g}": lambda value, bound: value <= bound,
}


def _survives_json(value: Any) -> bool:
    """Whether a value is read back from JSON as it was, tuples, NaN and numbers of other libraries excepted."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value) and _is_plain(value)
    except (TypeError, ValueError, RecursionError):
        return False


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        # "class" marks a specification in a config that is written down.
        return all(type(key) is str and key != "class" and _is_plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def load_named(name: str, version: int) -> Any:
    """What a reader brings along: the attribute of a module called ``module:name``, which must state ``version`` itself.

    Raises ``ValueError`` where it cannot be imported, states no ``version``, or another one than the specification.

    >>> load_named("itpo.fields:Options", version=1)
    Traceback (most recent call last):
        ...
    ValueError: itpo.fields:Options states no version: give it a whole number called `version`, and raise it with ...
    """
    module, _, attribute = name.partition(":")
    if module == "__main__":
        raise ValueError(
            f"{name} is part of a script or notebook, which other processes cannot import: move it to a module"
        )
    try:
        thing = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be imported ({error}): write module:name, of a module that is installed"
        ) from error
    stated = getattr(thing, "version", None)
    if type(stated) is not int or stated < 1:
        raise ValueError(
            f"{name} states no version: give it a whole number called `version`, and raise it with every change of what it does"
        )
    check(f"version of {name}", stated == version, version, f"the {stated} that it states")
    return thing


def check_named(name: str, version: int, known: Sequence[str], what: str) -> None:
    """Check a registered name, whose version is 0, or a ``module:name`` with the version that it states.

    >>> check_named("maths", 0, ["math"], "task")
    Traceback (most recent call last):
        ...
    ValueError: task is 'maths'; it must be one of math, or module:name of your own
    """
    if ":" in name:
        load_named(name, version)
    else:
        choices = f"one of {', '.join(known)}, or " if known else ""
        check(what, name in known, name, f"{choices}module:name of your own")
        check(
            "version",
            version == 0,
            version,
            f"0 for {name!r}, whose changes the library's own version counts",
        )
