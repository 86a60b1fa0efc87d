"""A reader's way in: JupyterLab in a browser, open a chapter, Run All, no error."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT, SHOTS

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


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the chapters, with its own settings: nothing touches the tree."""
    work, home = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("home")
    for folder in ("chapters", "data"):  # what a chapter reads, as in a clone
        shutil.copytree(ROOT / folder, work / folder, ignore=shutil.ignore_patterns("cache"))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(home), "JUPYTER_DATA_DIR": str(home / "d"),
                   "JUPYTERLAB_SETTINGS_DIR": str(home / "s"),
                   "JUPYTERLAB_WORKSPACES_DIR": str(home / "w")}  # fmt: skip
    log = work / "lab.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
             f"--port={port}", "--IdentityProvider.token=", "--LabApp.news_url=None",
             "--LabApp.expose_app_in_browser=True"],
            cwd=work, stdout=out, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(url + "/api", timeout=2)
            break
        except OSError:
            time.sleep(0.5)
    else:
        pytest.fail(log.read_text())
    yield url
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


@pytest.mark.parametrize("name", CHAPTERS)
def test_run_all(browser, lab, name):
    context = browser.new_context(viewport={"width": 1300, "height": 1500})
    context.set_default_timeout(280_000)
    page, elsewhere = context.new_page(), []
    own = (lab, lab.replace("http", "ws"), "data:", "blob:")
    page.on("request", lambda r: elsewhere.append(r.url) if not r.url.startswith(own) else None)
    page.goto(f"{lab}/lab/tree/chapters/{name}?reset")
    status = page.locator(".jp-StatusBar-Widget", has_text=IDLE)
    status.wait_for()
    # stored numbers go first, so that those found later come from this run
    page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    assert not any(c["number"] for c in page.evaluate(CELLS))
    page.locator(".lm-MenuBar-itemLabel", has_text="Kernel").first.click()
    page.locator(".lm-Menu-itemLabel", has_text="Restart Kernel and Run All Cells").first.click()
    page.locator("button.jp-mod-accept").first.click()
    page.wait_for_function(DONE, polling=500)
    status.wait_for()
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
    context.close()
    assert not elsewhere
