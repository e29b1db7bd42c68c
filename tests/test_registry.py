"""Who is champion, and why; on a real store, with models that load."""

import os
import uuid
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from stages.champion import row
from torch import nn

from amalgam.errors import UserError
from amalgam.models import Classifier
from amalgam.preprocessing import Preprocessing
from amalgam.tracking.model import log_model
from amalgam.tracking.registry import DATA_TAG, Candidate, champion, consider, crown_by_hand, model_of, rival
from amalgam.tracking.run import training_run
from amalgam.tracking.store import connect

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own


@pytest.fixture
def client(root: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.chdir(root)
    return connect()


def student() -> Classifier:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    return Classifier("MobileNetV3", network, ("cat", "dog"), Preprocessing((8, 8), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))


def trained(client: MlflowClient, accuracy: float | None, data: str = "images", task: str = "taskA", model: bool = True) -> Candidate:
    with training_run(task, "name", {}, {"task": task, DATA_TAG: data}, uuid.uuid4().hex) as tracker:
        tracker.metrics({} if accuracy is None else {"best_val_accuracy": accuracy})
    if model:
        log_model(client, tracker.run_id, student(), (8, 8))
    return Candidate(task, tracker.run_id, accuracy, data)


def test_the_better_student_on_the_same_images_takes_over_and_says_from_whom(client: MlflowClient) -> None:
    first, worse, better = (trained(client, accuracy) for accuracy in (80.0, 80.0, 90.0))
    assert champion(client, "taskA") is None
    assert consider(client, first) == "taskA: new champion, version 1: the first"
    assert consider(client, worse) == "taskA: the champion stays, version 1 with 80 % on validation"
    assert consider(client, better) == "taskA: new champion, version 2: 90 % on validation, before 80 %"
    assert consider(client, better) == "taskA: champion, version 2", "considered again, it is no second version"
    assert len(client.search_model_versions("name='amalgam-taskA'")) == 2
    found = champion(client, "taskA")
    assert found is not None
    assert found.run_id == better.run_id
    assert (found.tags["previous_version"], found.tags["previous_run"]) == ("1", first.run_id)
    assert champion(client, "taskB") is None


def test_students_of_other_images_are_not_compared_but_can_be_crowned_by_hand(client: MlflowClient) -> None:
    consider(client, trained(client, 80.0))
    other = trained(client, 99.0, data="others")
    said = consider(client, other)
    assert "other images or classes" in said
    assert f"make crown TASK=taskA RUN={other.run_id}" in said
    assert champion(client, "taskA").version == 1  # type: ignore[union-attr]
    assert crown_by_hand(client, "taskA", other.run_id) == "taskA: new champion, version 2: by hand"
    assert "the champion stays" in consider(client, trained(client, 98.0, data="others"))


def test_a_champion_that_was_crowned_over_a_better_one_stays(client: MlflowClient) -> None:
    """Someone chose it against the rule: a small network for a phone, say. One that was crowned over a worse one is held to the rule."""
    small = trained(client, 90.0)
    consider(client, small)
    consider(client, trained(client, 92.0))
    crown_by_hand(client, "taskA", small.run_id)
    newer = trained(client, 95.0)
    said = consider(client, newer)
    assert said == f"taskA: the champion stays, version 3, crowned by hand; to crown this one: make crown TASK=taskA RUN={newer.run_id}"
    crown_by_hand(client, "taskA", newer.run_id)
    assert "new champion, version 5" in consider(client, trained(client, 96.0))


def test_a_student_without_validation_accuracy_is_crowned_by_hand_alone(client: MlflowClient) -> None:
    unknown = trained(client, None)
    assert f"by which champions are made; to crown this one: make crown TASK=taskA RUN={unknown.run_id}" in consider(client, unknown)
    assert champion(client, "taskA") is None
    assert crown_by_hand(client, "taskA", unknown.run_id) == "taskA: new champion, version 1: by hand"
    assert "the champion stays, version 1, crowned by hand" in consider(client, trained(client, 99.0))
    assert row(client, "taskA")[3] == "–"


def test_a_model_that_was_broken_off_is_none_and_is_logged_again(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifact store fails after MLflow has linked the model to its run."""
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_model_artifacts", fail)
        with pytest.raises(OSError, match="disk full"):
            trained(client, 80.0)
    (run,) = client.search_runs([found.experiment_id for found in client.search_experiments()])
    assert run.outputs.model_outputs
    assert model_of(client, run.info.run_id) is None
    log_model(client, run.info.run_id, student(), (8, 8))
    assert consider(client, Candidate("taskA", run.info.run_id, 80.0, "images")) == "taskA: new champion, version 1: the first"
    assert mlflow.pyfunc.load_model("models:/amalgam-taskA@champion") is not None


def fail(*_: object, **__: object) -> None:
    raise OSError("disk full")


def test_a_champion_that_was_named_on_mlflows_page_is_one_of_other_images(client: MlflowClient) -> None:
    foreign, own = trained(client, 80.0), trained(client, 90.0)
    client.create_registered_model("amalgam-taskA")
    version = client.create_model_version("amalgam-taskA", f"models:/{model_of(client, foreign.run_id)}", foreign.run_id)
    client.set_registered_model_alias("amalgam-taskA", "champion", version.version)
    assert "which was not crowned by this pipeline; to crown this one" in consider(client, own)
    assert row(client, "taskA")[5] == "not crowned by this pipeline"
    client.delete_run(foreign.run_id)
    assert crown_by_hand(client, "taskA", own.run_id) == "taskA: new champion, version 2: by hand"


def test_a_champion_whose_predecessor_was_deleted_has_no_rival(client: MlflowClient) -> None:
    first, second = trained(client, 80.0), trained(client, 90.0)
    for candidate in (first, second):
        consider(client, candidate)
    client.delete_model_version("amalgam-taskA", "1")
    assert rival(client, "taskA", second.run_id) is None


def test_what_cannot_be_crowned_is_refused(client: MlflowClient) -> None:
    without = trained(client, 80.0, model=False)
    for run_id, message in (("0" * 32, "there is no run"), (without.run_id, "has no model")):
        with pytest.raises(UserError, match=message):
            crown_by_hand(client, "taskA", run_id)
    with pytest.raises(UserError, match="no finished training of taskB"):
        crown_by_hand(client, "taskB", without.run_id)
    with_peeking = trained(client, 99.0)
    client.set_tag(with_peeking.run_id, "selected_on", "test images")
    with pytest.raises(UserError, match="selected on the test images"):
        crown_by_hand(client, "taskA", with_peeking.run_id)


def test_a_champion_crowned_once_more_stays_compared_with_its_predecessor(client: MlflowClient) -> None:
    first, second = (trained(client, accuracy) for accuracy in (80.0, 90.0))
    for candidate in (first, second):
        consider(client, candidate)
    assert crown_by_hand(client, "taskA", second.run_id) == "taskA: champion already, version 2"
    assert rival(client, "taskA", second.run_id).run_id == first.run_id  # type: ignore[union-attr]


def test_a_run_is_compared_with_the_champion_or_its_predecessor(client: MlflowClient) -> None:
    first, second, third = (trained(client, accuracy) for accuracy in (80.0, 90.0, 85.0))
    assert rival(client, "taskA", first.run_id) is None
    for candidate in (first, second, third):
        consider(client, candidate)
    assert rival(client, "taskA", first.run_id).run_id == second.run_id  # type: ignore[union-attr]
    assert rival(client, "taskA", third.run_id).run_id == second.run_id  # type: ignore[union-attr]
    assert rival(client, "taskA", second.run_id).run_id == first.run_id  # type: ignore[union-attr]


def test_the_champion_loads_by_its_alias_and_takes_raw_pixels(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    consider(client, trained(client, 80.0))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    model = mlflow.pyfunc.load_model("models:/amalgam-taskA@champion")
    image = np.full((30, 20, 3), 200, dtype=np.uint8)
    found = model.predict(pd.DataFrame({"image": [image, image.tolist()]}))
    assert list(found.columns) == ["class", "probability", "probabilities"]
    assert found["probabilities"][0] == found["probabilities"][1]
    assert model.metadata.signature is not None
    assert len(model.predict(model.input_example)) == 2
    requirements = Path(mlflow.artifacts.download_artifacts("models:/amalgam-taskA@champion")) / "requirements.txt"
    assert f"torch=={torch.__version__.partition('+')[0]}" in requirements.read_text().split()


def test_a_model_is_logged_once(client: MlflowClient) -> None:
    candidate = trained(client, 80.0)
    before = model_of(client, candidate.run_id)
    log_model(client, candidate.run_id, student(), (8, 8))
    assert before is not None
    assert model_of(client, candidate.run_id) == before
    assert "MLFLOW_TRACKING_URI" not in os.environ, "what is logged later goes to the same store as before"
    assert client.get_run(candidate.run_id).info.status == "FINISHED"
