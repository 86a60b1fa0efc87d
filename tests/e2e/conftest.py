"""A browser that fails a test on any script error, missing file, or request to another host."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
import warnings
from pathlib import Path

import patience
import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
SHOTS = ROOT / "_build" / "shots"
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip


def pytest_collection_modifyitems(items):
    if CHROMIUM or os.environ.get("CI"):
        return
    warnings.warn(
        "NO CHROMIUM: THE BROWSER TESTS ARE SKIPPED; install it to run them", stacklevel=1
    )
    for item in items:
        item.add_marker(pytest.mark.skip(reason="no Chromium on this machine"))


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "CI needs Chromium; `make e2e` installs it as root on Debian"
    with sync_playwright() as p:
        b = p.chromium.launch(
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            timeout=patience.scaled(60) * 1000,
        )
        yield b
        b.close()


@pytest.fixture(scope="session")
def site():
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture
def page(browser, site, request):
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(patience.scaled(30) * 1000)
    page, problems = context.new_page(), []
    page.on("pageerror", lambda e: problems.append(f"script error: {e}"))
    page.on(
        "console", lambda m: problems.append(f"console: {m.text}") if m.type == "error" else None
    )
    page.on(
        "response", lambda r: problems.append(f"{r.status} {r.url}") if r.status >= 400 else None
    )

    def route(r):
        if r.request.url.startswith((site, "data:", "blob:")):
            r.continue_()
        else:
            problems.append(f"request to another host: {r.request.url}")
            r.abort()

    context.route("**/*", route)
    yield page
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"{request.node.name.replace('/', '_')}.png"))
    context.close()
    assert not problems
