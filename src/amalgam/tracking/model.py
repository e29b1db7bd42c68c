"""A student as MLflow model: it takes images of any size, says classes and probabilities, and needs nothing of this package."""

import base64
import io
import logging
import tempfile
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, DataType, Map, Schema
from PIL import Image

from amalgam.export import export_student
from amalgam.models import Classifier
from amalgam.serving.model import COLUMN
from amalgam.tracking.registry import model_of
from amalgam.tracking.store import fluent

NAME = "model"  # within its run
REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "pillow")
SIGNATURE = ModelSignature(
    Schema([ColSpec(AnyType(), COLUMN)]),  # pixels, bytes of a file, or these in base64
    Schema([ColSpec(DataType.string, "class"), ColSpec(DataType.double, "probability"), ColSpec(Map(DataType.double), "probabilities")]),
)


def log_model(client: MlflowClient, run_id: str, student: Classifier, size: tuple[int, int]) -> None:
    """Log the student, which was trained on images of ``size`` (height, width), as model of the run; unless there is one."""
    if model_of(client, run_id):
        return
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, fluent(client):
        data, code = export_student(student, size, Path(folder))
        with mlflow.start_run(run_id=run_id):
            mlflow.pyfunc.log_model(
                name=NAME,
                loader_module=f"{code.name}.model",
                data_path=str(data),
                code_paths=[str(code)],
                signature=SIGNATURE,
                input_example=pd.DataFrame({COLUMN: [example(size)] * 2}),
                pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
            )


def example(size: tuple[int, int]) -> str:
    """A grey PNG, in base64 as JSON carries it."""
    encoded = io.BytesIO()
    Image.new("RGB", size[::-1], "grey").save(encoded, "PNG")
    return base64.b64encode(encoded.getvalue()).decode()
