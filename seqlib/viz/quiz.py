"""A quiz that answers back at every choice, in JupyterLab and on the website."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from .. import results
from .explorers._base import _CSS, _KIT


class Quiz(anywidget.AnyWidget):
    """Questions with choices; each choice says why it is right or wrong.

    Args:
        items: ``{"q": question, "choices": [{"text": …, "ok": bool, "why": …}, …]}``.

    Raises:
        ValueError: a question without exactly one right choice, or a choice without a reason.
    """

    _esm = _KIT + (Path(__file__).parent / "quiz.js").read_text()
    _css = _CSS
    items: Any = traitlets.List().tag(sync=True)

    def __init__(self, items: Sequence[Mapping[str, Any]], **kwargs: Any) -> None:
        for item in items:
            right = [c for c in item["choices"] if c["ok"]]
            if len(right) != 1:
                raise ValueError(f"{item['q']!r} has {len(right)} right choices; it needs one")
            if not all(c.get("why") for c in item["choices"]):
                raise ValueError(f"{item['q']!r} has a choice without a reason")
        super().__init__(items=[dict(i) for i in items], **kwargs)

    def __repr__(self) -> str:  # no address: notebook tests compare text
        return f"Quiz({len(self.items)} questions)"

    @classmethod
    def read(cls, path: str | Path) -> Quiz:
        """The quiz in a JSON file of items.

        A relative path that is not here is looked for in the clone's ``chapters``, so that a copy
        of a chapter finds its quiz.

        Raises:
            FileNotFoundError: it is in neither.
        """
        here = Path(path)
        found = here if here.exists() else results.clone() / "chapters" / here
        return cls(json.loads(found.read_text()))
