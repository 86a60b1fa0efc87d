"""Recipes as flat values, and what of them is beyond neutral: that alone makes a key.

A recipe holds every option with its value, defaults resolved. An option is *neutral* where it has the
value that leaves a run as it was before the option existed: its default when it came in, noted in
``neutral.json`` once and for ever. Therefore

- a new option changes no key: its default is neutral, by ``neutral.json`` or, until it is noted
  there, by itself;
- a changed default changes the keys of all runs that take it: the new value is not the noted one.

A test holds ``neutral.json`` complete, so that the second holds for every option;
``python -m experiments neutral`` notes what is new and never alters what is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from seqlib.data.identity import text_digest

NEUTRAL = Path(__file__).with_name("neutral.json")
# What a run is called by, and whose data it saw: part of every key, whatever the value.
ALWAYS = ("length", "seed", "data.name", "model.name", "data.identity")
_ABSENT = object()


def plain(value: Any) -> Any:
    """The value as JSON gives it back: a tuple is a list."""
    return json.loads(json.dumps(value))


def digest(value: Any) -> str:
    """64 bits of SHA-256 over plain values, in hexadecimal; the order of names does not matter."""
    return text_digest(json.dumps(value, sort_keys=True))


def flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path -> value that is no mapping."""
    return dict(_leaves(recipe, ""))


def _leaves(part: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    for name, value in part.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", plain(value)


def beyond_neutral(recipe: Mapping[str, Any], bare: Mapping[str, Any]) -> dict[str, Any]:
    """Path -> value of what a key is made from.

    Args:
        recipe: of a run, all options resolved.
        bare: recipe of the run with the same name, model and length that sets nothing else. Its
            values are neutral where ``neutral.json`` has none.
    """
    defaults = flat(bare)
    out = {}
    for path, value in flat(recipe).items():
        neutral = noted(path, recipe)
        if neutral is _ABSENT:
            neutral = defaults.get(path, _ABSENT)
        if path.startswith(ALWAYS) or value != neutral:
            out[path] = value
    return out


def noted(path: str, recipe: Mapping[str, Any]) -> Any:
    """The neutral value in ``neutral.json``, or a marker that equals nothing."""
    return _all_noted().get(_shelf(path, recipe), _ABSENT)


def is_noted(path: str, recipe: Mapping[str, Any]) -> bool:
    """Whether ``neutral.json`` holds this option, or need not."""
    return path.startswith(ALWAYS) or noted(path, recipe) is not _ABSENT


def note(bares: Sequence[Mapping[str, Any]]) -> list[str]:
    """Add the options of these recipes that are not noted yet; what was added."""
    known = dict(_all_noted())
    added = []
    for recipe in bares:
        for path, value in flat(recipe).items():
            shelf = _shelf(path, recipe)
            if not path.startswith(ALWAYS) and shelf not in known:
                known[shelf] = value
                added.append(shelf)
    if added:
        text = json.dumps(known, indent=0, sort_keys=True, ensure_ascii=False)
        NEUTRAL.write_text(text + "\n")
        _all_noted.cache_clear()
    return added


def _shelf(path: str, recipe: Mapping[str, Any]) -> str:
    """Options of models and of data sets stand under the name of the model or the data set."""
    section = path.partition(".")[0]
    if section in ("model", "data"):
        return f"{section}.{recipe[section]['name']}.{path.rpartition('.')[2]}"
    return path


@cache
def _all_noted() -> dict[str, Any]:
    return json.loads(NEUTRAL.read_text()) if NEUTRAL.exists() else {}
