"""Stored targets: the teachers' logits on every stored view, computed once, so that training costs what the student costs.

::

    outputs/targets/<task>/view-0000.npy   float16 (training images, Σ|Lᵢ|): the teachers' logits side by side, NaN where a
                                           teacher does not cover the image's class and only covering teachers are stored
    outputs/targets/<task>/validation.npy  float16 (validation images, Σ|Lᵢ|): every teacher's, on the images as they are
    outputs/targets/<task>/targets.json    what they belong to: images, teachers, views

Rows follow the training images (validation images left out) or the validation images of the prepared split.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amalgam import store
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.files import new_array, read_json, sha256_of_arrays, write_json
from amalgam.inference import Stored, predict_logits, to_gpu_if_it_fits
from amalgam.models import Classifier
from amalgam.places import TEACHER_MANIFEST
from amalgam.provenance import code_hash, execution_record, fingerprint
from amalgam.source_settings import Augmentation
from amalgam.storable import Logits, storable
from amalgam.student_settings import StoredTeachers, StudentSettings
from amalgam.team import SOLO, Team
from amalgam.views import View, draw_view, plain_view
from amalgam.whole import whole_folder

NOT_THE_TEACHERS = 1 << 40  # what is added to a view's index, so that it is none of those that a teacher saw in its training


@dataclass(frozen=True)
class ViewSettings:
    """Which views there are, none augmented if ``views`` is 0; shifts in pixels of the stored image."""

    views: int
    crop: int
    flip: bool
    data_seed: int
    zoom: float = 1.0
    colour: float = 0.0

    @classmethod
    def of(cls, student: StudentSettings, augmentation: Augmentation, data_seed: int) -> "ViewSettings":
        return cls(student.views, augmentation.crop, augmentation.flip, data_seed, student.view_zoom, student.view_colour)

    @property
    def stored_views(self) -> int:
        """How many there are in the store."""
        return max(self.views, 1)

    def view(self, index: int, count: int) -> View:
        """How view ``index`` shows ``count`` images."""
        if self.views == 0:
            return plain_view(count)
        return draw_view(count, NOT_THE_TEACHERS + index, self.data_seed, self.crop, self.flip, self.zoom, self.colour)


@dataclass(frozen=True)
class StoredTargets:
    """The store of one task, checked against the images and classes it is to be used with."""

    folder: Path
    settings: ViewSettings
    stored_teachers: StoredTeachers

    @classmethod
    def read(cls, folder: Path, split: PreparedSplit, label_sets: LabelSets) -> "StoredTargets":
        """Raises UserError if the store was made from other images, another split or other teachers' classes."""
        manifest = read_json(folder / "targets.json")
        if manifest["images"] != split.content:
            raise UserError(f"{folder} holds targets of other images or another split; run dvc repro")
        if list(manifest["teachers"].items()) != [(name, list(classes)) for name, classes in label_sets.teachers.items()]:
            raise UserError(f"{folder} holds targets of other teachers or classes, or of these in another order; run dvc repro")
        return cls(folder, ViewSettings(**manifest["views"]), manifest["stored_teachers"])

    def check_made_with(self, views: ViewSettings, stored_teachers: StoredTeachers) -> None:
        """Raises UserError unless the store holds what these settings ask for."""
        asked = asdict(views) | {"stored_teachers": stored_teachers}
        for name, value in (asdict(self.settings) | {"stored_teachers": self.stored_teachers}).items():
            if value != asked[name]:
                raise UserError(f"{self.folder} was made with {name} {value}, the settings say {asked[name]}; run dvc repro")

    def check_made_by(self, models: Path) -> None:
        """Raises UserError unless it was these teachers that were asked; those that are not at hand in ``models`` are not looked at."""
        for name, classifier in self.classifiers.items():
            manifest = models / name / TEACHER_MANIFEST
            known = read_json(manifest) if manifest.is_file() else classifier
            if any(known.get(entry) != value for entry, value in classifier.items()):
                raise UserError(f"{self.folder} holds what another {name} said than the teacher in {manifest.parent}; run dvc repro")

    @property
    def classifiers(self) -> dict[str, dict[str, Any]]:
        """By teacher, its identity."""
        found: dict[str, dict[str, Any]] = read_json(self.folder / "targets.json")["classifiers"]
        return found

    def logits(self, view: int) -> Logits:
        """Logits (training images, Σ|Lᵢ|) of one view, memory-mapped."""
        values: Logits = np.load(self.folder / view_file(view), mmap_mode="r")
        return values

    def validation_logits(self) -> Logits:
        """Logits (validation images, Σ|Lᵢ|) of every teacher."""
        values: Logits = np.load(self.folder / VALIDATION_FILE)
        return values


VALIDATION_FILE = "validation.npy"
ROWS_AT_A_TIME = 16_384  # of logits, whatever the number of images


def view_file(index: int) -> str:
    return f"view-{index:04d}.npy"


def write_targets(
    folder: Path,
    split: PreparedSplit,
    label_sets: LabelSets,
    teachers: dict[str, Classifier],
    settings: ViewSettings,
    stored_teachers: StoredTeachers,
    on_view: Callable[[], None] = lambda: None,
    team: Team = SOLO,
) -> None:
    """Run each teacher on every view and write the store into ``folder``.

    What a teacher says of a view is kept in the repository's store: more views or another teacher cost only what is new. A team's
    processes take turns at views and teachers; then the first one writes. Raises UserError for logits that are not ``storable``.
    """
    known = list(teachers.values())
    rows, held_out, images = split.training_rows, split.validation_rows, to_gpu_if_it_fits(split.images)
    everywhere = np.full((len(teachers), len(rows)), True)
    covers = label_sets.asked()[split.labels[rows]].T if stored_teachers == "covering" else everywhere

    def answers(view: int, number: int) -> Logits:
        """One teacher's of the images that it covers (images, |Lᵢ|)."""
        return _view_logits(known[number], split.content, images, rows[covers[number]], settings, view)

    for piece, (view, number) in enumerate(product(range(settings.stored_views), range(len(known)))):
        if team.turn(piece):
            answers(view, number)
        if number == len(known) - 1:
            on_view()
    team.barrier()
    if team.is_first:
        with whole_folder(folder) as work:
            for view in range(settings.stored_views):
                _write_side_by_side(work / view_file(view), [answers(view, number) for number in range(len(known))], covers)
            every = [_view_logits(teacher, split.content, images, held_out, ViewSettings(0, 0, False, 0), 0) for teacher in known]
            _write_side_by_side(work / VALIDATION_FILE, every, np.full((len(known), len(held_out)), True))
            write_json(work / "targets.json", _manifest(split, teachers) | {"views": asdict(settings), "stored_teachers": stored_teachers})
    team.barrier()


def _manifest(split: PreparedSplit, teachers: dict[str, Classifier]) -> dict[str, Any]:
    """What the store belongs to."""
    return {
        "images": split.content,
        "teachers": {name: list(classifier.classes) for name, classifier in teachers.items()},
        "classifiers": {name: classifier.identity() for name, classifier in teachers.items()},
        "execution": execution_record(),
    }


def _write_side_by_side(path: Path, answers: list[Logits], covers: npt.NDArray[np.bool_]) -> None:
    """Write every teacher's answers (covered images, |Lᵢ|) as one array (images, Σ|Lᵢ|), NaN where ``covers`` (teachers, images) is not."""
    widths = np.cumsum([0, *(part.shape[1] for part in answers)])
    images = covers.shape[1]
    before = np.zeros(len(answers), dtype=np.int64)  # answers used so far
    whole = new_array(path, np.float16, (images, int(widths[-1])))
    for start in range(0, images, ROWS_AT_A_TIME):
        shown = covers[:, start : start + ROWS_AT_A_TIME]
        block = np.full((shown.shape[1], whole.shape[1]), np.nan, dtype=np.float16)
        for number, part in enumerate(answers):
            count = int(shown[number].sum())
            block[shown[number], widths[number] : widths[number + 1]] = part[before[number] : before[number] + count]
            before[number] += count
        whole[start : start + len(block)] = block
    whole.flush()


def _view_logits(
    classifier: Classifier, content: str, images: Stored, rows: npt.NDArray[np.int64], settings: ViewSettings, index: int
) -> Logits:
    """Logits (len(rows), classes) of one teacher on view ``index``, memory-mapped, from the store where they are known.

    ``content`` names the ``images`` in the store.
    """

    def make(folder: Path) -> None:
        view, shape = settings.view(index, len(images)), (len(rows), len(classifier.classes))
        logits = new_array(folder / "logits.npy", np.float16, shape)
        for start in range(0, len(rows), ROWS_AT_A_TIME):
            some = slice(start, start + ROWS_AT_A_TIME)
            logits[some] = storable(predict_logits(classifier, images, rows[some], view), classifier)
        logits.flush()

    view = {**asdict(settings), "views": index} if settings.views else "plain"  # this view, however many there are
    key = fingerprint(
        teacher=classifier.identity(),
        images=content,
        rows=sha256_of_arrays(rows),
        view=view,
        record=execution_record(),
        code=code_hash(__name__),
    )
    values: Logits = np.load(store.entry(store.VIEWS, key, make) / "logits.npy", mmap_mode="r")
    return values
