"""A reader's way in: JupyterLab in a browser, open a chapter, Run All, no error."""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import patience
import pytest
from conftest import ROOT, SHOTS
from playwright.sync_api import TimeoutError

from solutions import ch01

CHAPTERS = sorted(p.name for p in (ROOT / "chapters").glob("*.ipynb"))
IDLE = "Python 3 (ipykernel) | Idle"
# The notebook as JupyterLab holds it: cells that were never scrolled to are not in the document.
CELLS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
    .filter(c => c.type === "code" && c.sharedModel.getSource().trim())
    .map(c => ({number: c.executionCount,
                failed: c.outputs.toJSON().filter(o => o.output_type === "error" || o.name === "stderr")}))"""
# Scrolls to the first cell whose source holds a word.
SHOW = """word => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    const at = [...notebook.model.cells].findIndex(c => c.sharedModel.getSource().includes(word));
    notebook.activeCellIndex = at;
    return notebook.scrollToItem(at, "start");
}"""
DONE = f"""() => {{
    const all = ({CELLS})();
    return all.every(c => c.number) || all.some(c => c.failed.length);
}}"""


@contextlib.contextmanager
def opened(clone, home):
    """JupyterLab as `make lab` opens it in a clone, with its own settings; yields its address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JUPYTER_CONFIG_DIR": str(home),
        "JUPYTER_DATA_DIR": str(home / "d"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "s"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "w"),
    }
    command = [sys.executable, str(clone / "tools" / "desk.py"), "lab", "--no-browser"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token="]
    command += ["--LabApp.expose_app_in_browser=True"]
    url, log = f"http://127.0.0.1:{port}", clone / "lab.log"

    def answers(seconds):
        try:
            urllib.request.urlopen(url + "/api", timeout=seconds)
        except OSError:
            time.sleep(0.5)
            return False
        return True

    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        assert patience.wait_until(answers, 120), log.read_text()
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience.scaled(20))
        except subprocess.TimeoutExpired:
            process.kill()


def copy_of_the_course(folder):
    """What a chapter and the desk need of a clone: nothing touches this tree."""
    for name in ("chapters", "data", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("cache", "__py*"))
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """One JupyterLab for all chapters, on the desk of a clone."""
    clone = copy_of_the_course(tmp_path_factory.mktemp("clone"))
    with opened(clone, tmp_path_factory.mktemp("home")) as url:
        yield url


@contextlib.contextmanager
def notebook_page(browser, lab, name):
    """A page on one of the desk's notebooks with its kernel idle; nothing comes from elsewhere."""
    context = browser.new_context(viewport={"width": 1300, "height": 1500})
    context.set_default_timeout(patience.scaled(60) * 1000)
    page, elsewhere = context.new_page(), []
    own = (lab, lab.replace("http", "ws"), "data:", "blob:")
    page.on("request", lambda r: elsewhere.append(r.url) if not r.url.startswith(own) else None)
    page.goto(f"{lab}/lab/tree/my-course/{name}?reset")
    page.locator(".jp-StatusBar-Widget", has_text=IDLE).wait_for()
    yield page
    context.close()
    assert not elsewhere


def wait_for(page, condition, seconds):
    """Wait in the page, so many seconds of an idle machine."""

    def holds(at_most):
        try:
            page.wait_for_function(condition, polling=500, timeout=at_most * 1000)
        except TimeoutError:
            return False
        return True

    assert patience.wait_until(holds, seconds), page.evaluate(CELLS)


@pytest.mark.parametrize("name", CHAPTERS)
def test_run_all(browser, lab, name):
    with notebook_page(browser, lab, name) as page:
        # stored numbers go first, so that those found later come from this run
        page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
        assert not any(c["number"] for c in page.evaluate(CELLS))
        page.locator(".lm-MenuBar-itemLabel", has_text="Kernel").first.click()
        page.locator(".lm-Menu-itemLabel", has_text="Restart Kernel and Run All").first.click()
        page.locator("button.jp-mod-accept").first.click()
        wait_for(page, DONE, 300)
        page.locator(".jp-StatusBar-Widget", has_text=IDLE).wait_for()
        cells = page.evaluate(CELLS)
        assert not [c for c in cells if c["failed"]]
        assert [c["number"] for c in cells] == list(range(1, len(cells) + 1))
        page.keyboard.press("Escape")
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(SHOTS / f"lab-{name[:2]}.png"))
        page.evaluate(SHOW, "Explorer")
        page.locator(".seq-explorer").first.wait_for()
        page.evaluate(SHOW, "Quiz.read")
        page.locator(".seq-quiz button.choice").first.wait_for()
        assert page.locator(".seq-quiz .why:visible").count() == 0  # no answer before the question
        page.locator(".seq-quiz button.choice").first.click()
        assert page.locator(".seq-quiz .why:visible").count() == 1


# --- an answer stays ------------------------------------------------------------------------------

EXERCISE = 'check("E01.1"'
ANSWER = (
    inspect.getsource(ch01.masked_mean) + '\n\ncheck("E01.1", masked_mean)  # answered by a learner'
)
# Index, source and printed text of the exercise's cell.
STATE = """word => {
    const all = [...window.jupyterapp.shell.currentWidget.content.model.cells];
    const at = all.findIndex(c => c.type === "code" && c.sharedModel.getSource().includes(word));
    return {at, source: all[at].sharedModel.getSource(),
            shown: all[at].outputs.toJSON().map(o => o.text ?? "").join("")};
}"""
RUN = """async at => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    notebook.deselectAll();
    notebook.activeCellIndex = at;
    await window.jupyterapp.commands.execute("notebook:run-cell");
}"""


def run_exercise(page, verdict):
    """Run the chapter's imports, then the exercise, until its check gives the verdict."""
    for word in ("runtime.setup", "import check", EXERCISE):
        page.evaluate(RUN, page.evaluate(STATE, word)["at"])
    shown = f"(({STATE})('{EXERCISE}')).shown.includes('E01.1: {verdict}')"
    wait_for(page, f"() => {shown}", 60)


def test_an_answer_is_there_when_the_lab_is_opened_again(browser, tmp_path):
    """Typed in the browser, saved, closed; then found again by `make lab`, and it still passes."""
    clone, name = copy_of_the_course(tmp_path / "clone"), "01-pooling.ipynb"
    originals = {p: p.read_bytes() for p in (clone / "chapters").rglob("*") if p.is_file()}
    with (
        opened(clone, tmp_path / "home") as lab,
        notebook_page(browser, lab, name) as page,
    ):
        run_exercise(page, "not attempted yet")
        page.evaluate(SHOW, EXERCISE)
        page.locator(".jp-Notebook-cell.jp-mod-active .cm-content").click()
        page.keyboard.press("Control+a")
        page.keyboard.insert_text(ANSWER)
        assert page.evaluate(STATE, EXERCISE)["source"] == ANSWER
        run_exercise(page, "passed")
        page.keyboard.press("Escape")
        page.keyboard.press("Control+s")
        page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")
    saved = (clone / "my-course" / name).read_bytes()
    assert b"answered by a learner" in saved
    with (
        opened(clone, tmp_path / "home") as lab,
        notebook_page(browser, lab, name) as page,
    ):
        assert (clone / "my-course" / name).read_bytes() == saved
        assert page.evaluate(STATE, EXERCISE)["source"] == ANSWER
        run_exercise(page, "passed")
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.evaluate(SHOW, EXERCISE)
        page.screenshot(path=str(SHOTS / "lab-answer.png"))
    checked = subprocess.run([sys.executable, str(clone / "tools" / "nb.py"), "check"])
    assert checked.returncode == 0
    assert {p: p.read_bytes() for p in originals} == originals
