"""The strict comparison bites: a changed number fails, a claim's measured value does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import patience
import pytest

ROOT = Path(__file__).resolve().parent.parent
CELLS = {
    "print(2 + 2)": "4\n",
    "from seqlib.claims import claim\nclaim('half', 0.5, 0.4, 0.6)": "half: ⟨0.500⟩ in [0.4, 0.6]\n",
}


def notebook(path: Path, change: tuple[str, str] = ("", "")) -> Path:
    nb = nbformat.v4.new_notebook()
    nb.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    for n, (source, printed) in enumerate(CELLS.items(), start=1):
        cell = nbformat.v4.new_code_cell(source, execution_count=n)
        stored = printed.replace(*change) if change[0] else printed
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=stored)]
        nb.cells.append(cell)
    nbformat.write(nb, path)
    return path


def strict(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env",
         "--nbval-sanitize-with", str(ROOT / "tests" / "nbval.cfg"), "-p", "no:cacheprovider",
         "-p", "no:xdist", str(path)],
        capture_output=True, text=True, timeout=patience.scaled(120), cwd=path.parent,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "passes"),
    [
        (("", ""), True),
        (("4\n", "5\n"), False),  # a stored number that the code does not print
        (("0.500", "0.523"), True),  # measured on another machine, inside its interval
        (("[0.4, 0.6]", "[0.4, 0.7]"), False),  # the interval itself is compared
    ],
)
def test_strict_comparison(tmp_path, change, passes):
    run = strict(notebook(tmp_path / "n.ipynb", change))
    assert (run.returncode == 0) == passes, run.stdout
    assert "2 passed" in run.stdout or not passes
