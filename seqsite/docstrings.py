"""Docstrings as reStructuredText, for the API reference.

The library's docstrings are written for people who read source: a formula or a diagram is simply
indented, and |x| or a * b mean what they say. This marks such blocks as literal, and escapes what
Sphinx would take for markup. Sections such as ``Args:`` are left to napoleon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Examples?|Notes?):$")
_BULLET = re.compile(r"\s*[*-] ")
_LITERAL_OR_EMPHASIS = re.compile(
    r"(``.*?``|(?<!\S)\*{1,2}[^\s*](?:[^*]*[^\s*])?\*{1,2}(?=[\s.,;:)]|$))", re.DOTALL
)
_MARKUP = re.compile(r"[*|]|(?<=\w)_(?!\w)")


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Handler of ``autodoc-process-docstring``: changes the lines in place, before napoleon does."""
    lines[:] = as_rst("\n".join(lines)).split("\n")


def as_rst(docstring: str) -> str:
    """A cleaned docstring as reStructuredText.

    Args:
        docstring: without indentation of its own, as ``inspect.getdoc`` gives it.
    """
    return "\n".join(text if is_block else _escaped(text) for is_block, text in _parts(docstring))


def _parts(docstring: str) -> Iterator[tuple[bool, str]]:
    """The docstring in turns of (False, prose) and (True, an indented block marked as literal)."""
    prose: list[str] = []
    block: list[str] = []
    in_section = False
    in_list = False
    for line in docstring.split("\n"):
        is_indented = line.startswith(" ")
        if line and not is_indented:
            in_section = bool(_SECTION.match(line))
        if _BULLET.match(line):
            in_list = True
        elif line and not is_indented:
            in_list = False
        begins = is_indented and not block and (not prose or not prose[-1])
        if not in_section and not in_list and (begins or (block and (is_indented or not line))):
            if not block:
                yield False, "\n".join(prose)
                prose = []
            block.append(line)
            continue
        if block:
            yield True, "\n".join(["::", "", *block, ""])
            block = []
        prose.append(line)
    if block:
        yield True, "\n".join(["::", "", *block, ""])
    yield False, "\n".join(prose)


def _escaped(prose: str) -> str:
    """Prose in which only ``literals``, *emphasis* and bullets are markup."""
    bits = _LITERAL_OR_EMPHASIS.split(prose)
    bits[::2] = [_escaped_lines(bit) for bit in bits[::2]]
    return "".join(bits)


def _escaped_lines(text: str) -> str:
    lines = []
    for line in text.split("\n"):
        bullet = _BULLET.match(line)
        start = bullet.end() if bullet else 0
        lines.append(line[:start] + _MARKUP.sub(r"\\\g<0>", line[start:]))
    return "\n".join(lines)
