"""What README shows of the main job and of two experiments, made anew: its tables and the pictures of its pages.

    make repro
    git commit -m Baseline dvc.lock models.dvc
    PYTHONPATH=src:. python benchmarks/readme.py

In a clone on main with nothing else changed. README's own commands are run. Needs Chromium with its driver.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import requests
from mlflow import MlflowClient
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from amalgam.record import RunRecord

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
TASK = "taskA"
CURVES = "^(val_|train_loss|lr|images)"  # of the page's many, those that the picture shows
PATIENCE = 120  # seconds for a page to show something
SETTLED = 5  # seconds for it to draw what it has found
# What a visitor of MLflow's pages chooses once: training's pages, no assistant beside them.
CHOSEN = {"mlflow.workflowType_v1": '"machine_learning"', "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true"}
# Toolbars that a pointer over a curve brings: without a pointer the browser shows them all.
PLAIN = "const s = document.createElement('style'); s.textContent = '.modebar {display: none}'; document.head.append(s)"


def commands(start: str) -> list[list[str]]:
    """README's commands that begin so."""
    lines = re.findall(rf"^{re.escape(start)}.*$", README.read_text(encoding="utf-8"), re.MULTILINE)
    if not lines:
        raise SystemExit(f"README has no command {start}…")
    return [shlex.split(line, comments=True) for line in lines]


def printed(command: list[str]) -> list[str]:
    """The lines that a command prints on a wide terminal. Exits with what it complains of, if it fails."""
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "COLUMNS": "149"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout.splitlines()


def block(first: str) -> re.Pattern[str]:
    """README's block of which the first word is this."""
    return re.compile(rf"^```\n *{first}\b.*?^```$", re.MULTILINE | re.DOTALL)


def show(first: str, lines: list[str]) -> None:
    """Replace README's block of which the first word is this."""
    body = "\n".join(line.rstrip() for line in lines).strip("\n")
    changed, count = block(first).subn(lambda _: f"```\n{body}\n```", README.read_text(encoding="utf-8"))
    if count != 1:
        raise SystemExit(f"README has {count} blocks that begin with {first}")
    README.write_text(changed, encoding="utf-8")


def aligned(lines: list[str]) -> list[str]:
    """Columns that two blanks or more divide, as wide as what is left in them."""
    cells = [re.split(r" {2,}", line.strip()) for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]


def run_experiments() -> None:
    """README's two named ones, if they are not there."""
    there = printed(["dvc", "exp", "list", "--name-only"])
    for command in commands("dvc exp run --temp --name"):
        if command[command.index("--name") + 1] not in there:
            printed(command)


def comparison() -> list[str]:
    """What README's commands print of the two experiments, less what README says that it leaves out."""
    (table,), (params,), (metrics,) = (commands(f"dvc {what}") for what in ("exp show --hide", "params diff", "metrics diff"))
    rows = [line[1:] for line in printed([*table, "--no-pager"]) if line.strip()]
    rule = next(line for line in rows if set(line.strip()) == {"─"})
    heading, *rows = [line for line in rows if line != rule]
    differ = [line for line in printed(metrics) if not re.search("_loss|mlflow_run", line)]
    return [heading, rule, *rows, "", *printed(params), "", *aligned([differ[0], *sorted(differ[1:])])]


def _await(server: "subprocess.Popen[bytes]", address: str) -> None:
    """Return when the server answers. Exits if it ends instead, or takes too long."""
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            requests.get(address, timeout=5).raise_for_status()
            return
        time.sleep(0.3)
    raise SystemExit("mlflow ui does not answer; give the command by hand, it says why")


@contextlib.contextmanager
def pages() -> Iterator[str]:
    """The address of MLflow's pages, as long as they are wanted."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as server:
        try:
            _await(server, f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


@contextlib.contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """One without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for option in ("--headless", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or ""))
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver: webdriver.Chrome, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def picture(driver: webdriver.Chrome, name: str, scale: float = 1.0) -> None:
    """Write what the browser shows of a page to docs/, ``scale`` times as large."""
    time.sleep(SETTLED)
    shown = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    small = shown.resize((round(shown.width * scale), round(shown.height * scale)), Image.Resampling.LANCZOS)
    small.save(DOCS / name, optimize=True)


def open_page(driver: webdriver.Chrome, address: str, text: str) -> None:
    """Return when it shows this text, and what comes with it."""
    driver.get("about:blank")  # pages differ after # only: without this the old one would stay
    driver.get(address)
    WebDriverWait(driver, PATIENCE).until(lambda d: text in str(d.execute_script("return document.body.innerText")), text)
    time.sleep(SETTLED)


def draw_run() -> None:
    """The run's page: what came of it, and its curves."""
    run = RunRecord.read(ROOT / "outputs" / "students" / TASK)
    with pages() as address, browser() as driver:
        experiment = MlflowClient(tracking_uri=address).get_experiment_by_name(TASK)
        assert experiment
        page = f"{address}/#/experiments/{experiment.experiment_id}/runs/{run.run_id}"
        driver.get(f"{address}/version")
        for name, value in CHOSEN.items():
            driver.execute_script("localStorage.setItem(...arguments)", name, value)
        resize(driver, 1250, 770)
        open_page(driver, page, "To repeat it:")
        driver.find_element(By.XPATH, "//*[text()='Show more']").click()
        picture(driver, "mlflow_run.png")
        resize(driver, 1250, 990)
        open_page(driver, f"{page}/model-metrics", "Model metrics")
        driver.execute_script(PLAIN)
        driver.find_element(By.CSS_SELECTOR, "input[placeholder*='metric']").send_keys(CURVES, Keys.TAB)
        picture(driver, "mlflow_curves.png")


def draw_experiments() -> None:
    """DVC's page of two experiments side by side."""
    (command,) = commands("dvc plots diff")
    address = printed(command)[-1].strip()
    with browser() as driver:
        resize(driver, 2400, 1472)
        driver.get(address)
        picture(driver, "plots_diff.png", 0.5)


def main() -> None:
    show("task", printed(["make", "--silent", "results"]))
    run_experiments()
    show("Experiment", comparison())
    draw_run()
    draw_experiments()


if __name__ == "__main__":
    main()
