"""The documentation builds without a warning, leads nowhere wrong, and shows well in a browser."""

import functools
import html.parser
import http.server
import pathlib
import shutil
import subprocess
import sys
import threading
import urllib.parse

import pytest
from sphinx.util.inventory import InventoryFile

import oto_jax
from oto_jax import plot

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
# In a container there is no sandbox to be had, and nothing here needs one.
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, built as `make docs` builds them."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    places = ["-d", str(folder / "doctrees"), "docs", str(folder / "html")]
    done = subprocess.run(
        [*command, *places], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def pages(site):
    return sorted(page for page in site.rglob("*.html") if "_static" not in page.parts)


class Links(html.parser.HTMLParser):
    """Where a page leads, and which places on it can be led to."""

    def __init__(self, page):
        super().__init__()
        self.targets, self.places = [], {""}
        self.feed(page.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places.add(found.get("id"))
        self.targets += [found[name] for name in ("href", "src") if found.get(name)]


def test_every_link_within_the_site_leads_somewhere(site):
    links = {page.resolve(): Links(page) for page in pages(site)}
    dead = []
    for page, found in links.items():
        for target in found.targets:
            parts = urllib.parse.urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = urllib.parse.unquote(parts.path)
            other = (page.parent / path).resolve() if path else page
            known = other in links and parts.fragment in links[other].places
            if not (known or (other.is_file() and not parts.fragment)):
                dead.append(f"{page.name}: {target}")
    assert not dead


def test_every_public_name_is_in_the_reference(site):
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    python = (names for kind, names in inventory.data.items() if kind.startswith("py:"))
    documented = {name.rpartition(".")[2] for names in python for name in names}
    missing = {*oto_jax.__all__, *plot.__all__} - documented - {"saliency"}
    assert not missing


@pytest.fixture(scope="module")
def address(site):
    """The site, served as it would be."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield started
        started.close()


FORMULAS_SET = "window.MathJax?.startup?.promise?.then(() => true)"
BROKEN = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def listen(view):
    """Everything that goes wrong on a page from now on; a request that we leave behind does not."""
    problems = []
    view.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    view.on("pageerror", lambda error: problems.append(str(error)))
    view.on(
        "requestfailed",
        lambda r: None if "ABORTED" in (r.failure or "") else problems.append(r.url),
    )
    return problems


@pytest.mark.parametrize("width", [400, 1400])
def test_pages_show_whole(site, address, browser, width):
    view = browser.new_page(viewport={"width": width, "height": 900})
    problems = listen(view)
    for page in pages(site):
        name = page.relative_to(site).as_posix()
        view.goto(f"{address}/{name}")
        view.evaluate(FORMULAS_SET)
        found = [*problems, *view.evaluate(BROKEN)]
        assert not found, f"{name}: {found}"
        assert view.evaluate(TOO_WIDE) <= 0, f"{name} scrolls sideways at {width} pixels"
    view.close()


def test_formulas_are_set(address, browser):
    view = browser.new_page()
    view.goto(f"{address}/mathematics.html")
    view.evaluate(FORMULAS_SET)
    assert view.locator("mjx-container").count() > 50
    assert view.locator("mjx-merror").count() == 0
    view.close()


def test_search_finds_a_function(address, browser):
    view = browser.new_page()
    view.goto(f"{address}/search.html?q=find_zigs")
    view.wait_for_selector("#search-results ul.search li a")
    found = view.locator("#search-results ul.search li a").all_inner_texts()
    assert any("find_zigs" in text for text in found)
    view.close()
