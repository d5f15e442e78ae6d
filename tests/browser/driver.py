"""Drive JupyterLab in a headless Chromium: start it, open a notebook, run and inspect it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
TOKEN = "course-browser-tests"
READY = 120_000  # ms; a first start on a busy machine is slow


def find_browser() -> str:
    """The path of an installed Chromium; raises RuntimeError saying how to install one."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    raise RuntimeError(
        f"expected one of {', '.join(BROWSERS)} on the path: on Debian, apt-get install chromium"
    )


@contextmanager
def chromium():
    """A Playwright browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def jupyterlab(root: Path):
    """A JupyterLab server whose files, settings and records all lie under `root`; yields its
    address.
    """
    port = _free_port()
    for name in ("work", "home", "config", "data", "lab"):
        (root / name).mkdir(parents=True, exist_ok=True)
    set_windowing(root, "none")
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    _settings(root / "lab", "@jupyterlab/apputils-extension:notification", quiet)
    environment = os.environ | {
        "COURSE_HOME": str(root / "home"),
        "COURSE_LIVE_SECONDS": "3",  # of every training: the build has trained for the whole time
        "COURSE_STRICT": "1",
        "OMP_NUM_THREADS": "1",
        "JUPYTER_CONFIG_DIR": str(root / "config"),
        "JUPYTER_DATA_DIR": str(root / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(root / "lab" / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(root / "lab" / "workspaces"),
    }
    options = [
        "--no-browser",
        "--allow-root",
        "--LabApp.expose_app_in_browser=True",
        f"--port={port}",
    ]
    options += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={root / 'work'}"]
    options += [
        "--ServerApp.port_retries=0",
        "--LabApp.news_url=",
        "--LabApp.extension_manager=readonly",
    ]
    log = (root / "server.log").open("w", encoding="utf-8")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=root / "work",
    )
    address = f"http://localhost:{port}"
    try:
        _wait_for(server, address, root / "server.log")
        yield address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def set_windowing(root: Path, mode: str) -> None:
    """How pages opened from now on draw the cells that are off the screen."""
    _settings(root / "lab", "@jupyterlab/notebook-extension:tracker", {"windowingMode": mode})


def remove_records(root: Path) -> None:
    """Make the student one who has done nothing yet."""
    for record in (root / "home").glob("*.json"):
        record.unlink()


def shut_down_kernels(address: str) -> None:
    for kernel in json.loads(_ask(f"{address}/api/kernels")):
        _ask(f"{address}/api/kernels/{kernel['id']}", "DELETE")


class Lab:
    """One notebook open in JupyterLab."""

    def __init__(self, page, address: str, notebook: str, *, kernel=True, width=1200):
        self.page = page
        self.notebook = notebook
        self.errors: list[str] = []
        self.page.set_default_timeout(READY)
        self.page.set_viewport_size({"width": width, "height": 1000})
        self.page.on("pageerror", self._note_error)
        self.page.goto(f"{address}/lab/tree/{notebook}?reset&token={TOKEN}", timeout=READY)
        self.wait_until_open(kernel)

    def wait_until_open(self, kernel=True) -> None:
        is_open = f"window.jupyterapp && {PANEL}?.context.isReady && {PANEL}.isVisible"
        self.page.wait_for_function(f"() => {is_open}", timeout=READY)
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=READY)
        if kernel:
            self.wait_until_idle()
            self.page.evaluate(COUNT_UNANSWERED)
        self.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")

    def _note_error(self, error) -> None:
        self.errors.append(str(error))

    def has_kernel(self) -> bool:
        return self.page.evaluate(f"() => {KERNEL}?.connectionStatus === 'connected'")

    def wait_until_idle(self, timeout=READY) -> None:
        connected = f"{PANEL}?.sessionContext.session?.kernel?.connectionStatus === 'connected'"
        self.page.wait_for_function(
            f"() => {connected} && {KERNEL}.status === 'idle'", timeout=timeout
        )

    def wait_until_answered(self) -> None:
        """Wait until the kernel has handled all that cells and widgets have sent to it."""
        self.page.wait_for_function("() => window.unanswered.size === 0")

    def run_all(self, seconds=300) -> None:
        """Run every cell and wait until the kernel has finished.  Raises RuntimeError for a failing
        cell.
        """
        self.wait_until_idle()
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.wait_until_idle(seconds * 1000)
        if failed := self.error_outputs():
            raise RuntimeError("\n".join(failed))
        # the last outputs are drawn after the kernel has become idle, and then ask it for more
        self.page.wait_for_function(STARTED)
        self.wait_until_answered()
        self.page.evaluate(DRAWN)

    def error_outputs(self) -> list[str]:
        return self.page.evaluate(
            f"() => {PANEL}.content.widgets.flatMap(c => c.model.outputs ? c.model.outputs.toJSON()"
            " : []).filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`)"
        )

    def command(self, name: str) -> None:
        self.page.evaluate("(name) => window.jupyterapp.commands.execute(name)", name)

    def set_theme(self, theme: str) -> None:
        """Switch to a theme, such as "JupyterLab Dark"."""
        change = "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })"
        self.page.evaluate(change, theme)
        is_set = "theme => document.body.dataset.jpThemeName === theme"
        self.page.wait_for_function(is_set, arg=theme)

    def save(self) -> None:
        self.page.evaluate(f"() => {PANEL}.context.save()")

    def shut_down_kernel(self) -> None:
        self.page.evaluate(f"() => {PANEL}.sessionContext.shutdown()")

    def restart_kernel(self) -> None:
        self.page.evaluate(f"() => {KERNEL}.restart()")
        self.wait_until_idle()
        self.page.evaluate("() => window.unanswered.clear()")

    def reload(self, kernel=True) -> None:
        self.page.reload()
        self.wait_until_open(kernel)

    def where(self) -> dict:
        """The notebook's state that keys of its own would change: active cell, mode, kinds of the
        cells.
        """
        return self.page.evaluate(
            f"() => {{ const n = {PANEL}.content; return {{ cell: n.activeCellIndex, mode: n.mode,"
            " kinds: n.widgets.map(c => c.model.type).join() }; }"
        )

    def screenshot(self, path: Path) -> None:
        """The whole notebook, from its first cell to its last."""
        size = self.page.viewport_size
        last = (
            "() => [...document.querySelectorAll('.jp-Notebook"
            " .jp-Cell')].at(-1).getBoundingClientRect()"
        )
        first = last.replace(".at(-1)", "[0]")
        height = self.page.evaluate(last)["bottom"] - self.page.evaluate(first)["top"] + 120
        self.page.set_viewport_size({"width": size["width"], "height": min(16_000, round(height))})
        self.page.evaluate("() => document.querySelector('.jp-WindowedPanel-outer').scrollTo(0, 0)")
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=path)
        self.page.set_viewport_size(size)

    def close(self) -> None:
        """Leave the page to the next notebook."""
        self.page.remove_listener("pageerror", self._note_error)


PANEL = "window.jupyterapp.shell.currentWidget"
SESSION = f"{PANEL}.sessionContext.session"
KERNEL = f"{SESSION}?.kernel"
# the ids of the requests that the kernel has not yet handled
COUNT_UNANSWERED = f"""() => {{
  window.unanswered = new Set();
  {SESSION}.anyMessage.connect((_, {{ msg, direction }}) => {{
    if (direction === "send" && msg.channel === "shell") window.unanswered.add(msg.header.msg_id);
    const handled = msg.header.msg_type === "status" && msg.content.execution_state === "idle";
    if (direction === "recv" && handled) window.unanswered.delete(msg.parent_header.msg_id);
  }});
}}"""
STARTED = "() => [...document.querySelectorAll('[data-course]')].every(e => e.shadowRoot)"
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def write_notebook(path: Path, *cells: str) -> Path:
    """A notebook of code cells; one that starts with `# ` and a letter is Markdown."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    v4 = nbformat.v4
    notebook.cells = [
        v4.new_markdown_cell(c) if c.startswith("# ") else v4.new_code_cell(c) for c in cells
    ]
    nbformat.write(notebook, path)
    return path


def _settings(lab: Path, plugin: str, values: dict) -> None:
    package, name = plugin.split(":")
    path = lab / "settings" / package / f"{name}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def _ask(address: str, method="GET") -> bytes:
    headers = {"Authorization": f"token {TOKEN}"}
    request = urllib.request.Request(address, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.read()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _wait_for(server: subprocess.Popen, address: str, log: Path, seconds=120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            _ask(f"{address}/api")
            return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")
