"""MLflow's pages of the pipeline's own store, in a real browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from conftest import Repository, WebServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1500,2400",
)
PATIENCE = 120  # seconds for a page to show something: it ends a test that would fail, and slows none that passes

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no browser: install Chromium with its driver (Debian: apt-get install chromium chromium-driver)"
)


class Pages:
    """The UI of a repository's store, as a browser shows it."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        self.address = address

    def open(self, path: str) -> None:
        self.browser.get("about:blank")  # pages differ after # only: without this the old one would be looked at
        self.browser.get(f"{self.address}/#/{path}")

    def wait_for(self, *texts: str) -> None:
        try:
            WebDriverWait(self.browser, PATIENCE).until(lambda _: all(text in self.text for text in texts))
        except TimeoutException:
            raise AssertionError(f"{[text for text in texts if text not in self.text]} not in: {self.text}") from None

    @property
    def text(self) -> str:
        return str(self.browser.execute_script("return document.body.innerText")).replace("\xa0", " ")

    def wait_for_elements(self, css: str, count: int) -> None:
        WebDriverWait(self.browser, PATIENCE).until(lambda b: len(b.find_elements(By.CSS_SELECTOR, css)) >= count, f"{count} × {css}")


@pytest.fixture(scope="module")
def repository(finished_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    root = tmp_path_factory.mktemp("pages") / "repository"
    shutil.copytree(finished_template, root, symlinks=True)
    found = Repository(root)
    found.run("python", "stages/sync.py", PYTHONPATH="src")  # the paths of the copy
    return found


@pytest.fixture(scope="module")
def pages(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    server = WebServer(repository.root, "ui")
    server.start(tmp_path_factory.mktemp("log") / "log")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in OPTIONS:
        options.add_argument(option)
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield Pages(browser, server.uri)
    browser.quit()
    server.stop()


@pytest.fixture(scope="module")
def store(repository: Repository) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{repository.root / 'mlflow.db'}")


@pytest.fixture(scope="module")
def experiment(store: MlflowClient) -> str:
    return str(store.get_experiment_by_name("taskA").experiment_id)


@pytest.fixture(scope="module")
def run(store: MlflowClient, experiment: str) -> str:
    return str(store.search_runs([experiment])[0].info.run_id)


def test_experiments_open_as_tables_of_trainings(pages: Pages) -> None:
    """After the switch that the browser then remembers."""
    pages.open("experiments")
    pages.wait_for("taskA", "taskB", "Model training")
    pages.browser.find_element(By.XPATH, "//*[text()='Model training']").click()
    pages.wait_for("taskA", "taskB")
    pages.browser.find_element(By.LINK_TEXT, "taskA").click()
    pages.wait_for("MobileNetV3 α0.5 T4 blocks s42", "1 matching run")


def test_a_runs_page_says_what_came_of_it(pages: Pages, experiment: str, run: str) -> None:
    pages.open(f"experiments/{experiment}/runs/{run}")
    pages.wait_for(
        "MobileNetV3 α0.5 T4 blocks s42", "student, test images", "To repeat it:", "Finished", "folder taskA trainval", "dvc.data"
    )
    for text in ("test_accuracy", "best_val_accuracy", "test_ece", "seconds", "amalgam-taskA"):
        assert text in pages.text


def test_learning_curves_are_drawn(pages: Pages, experiment: str, run: str) -> None:
    pages.open(f"experiments/{experiment}/runs/{run}/model-metrics")
    pages.wait_for("teacher_accuracy", "Model metrics")
    pages.wait_for_elements("svg.main-svg", 2)


@pytest.mark.parametrize("picture", ["confusion_matrix", "confusion_matrix_normalized", "reliability", "sample_predictions", "agreement"])
def test_pictures_open(pages: Pages, experiment: str, run: str, picture: str) -> None:
    pages.open(f"experiments/{experiment}/runs/{run}/artifacts/evaluation/{picture}.png")
    pages.wait_for(f"evaluation/{picture}.png")
    shown = "return [...document.images].some(i => i.src.startsWith('blob:') && i.complete && i.naturalWidth > 200)"
    WebDriverWait(pages.browser, PATIENCE).until(lambda browser: browser.execute_script(shown), picture)


def test_the_champions_page_says_why_it_is_one(pages: Pages) -> None:
    pages.open("models")
    pages.wait_for("amalgam-taskA", "amalgam-taskB", "@ champion")
    pages.open("models/amalgam-taskA/versions/1")
    pages.wait_for("the first", "val_accuracy", "MobileNetV3 α0.5 T4 blocks s42", "Inputs (1)", "Outputs (3)")
