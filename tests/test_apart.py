"""The benchmark's division of training images between teachers and student."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks.apart import TEACHERS, part, write_rows

from amalgam.dataset import LabelSets, PreparedSplit
from conftest import SETS, colour_split


@pytest.mark.parametrize(("share", "seed"), [(0.5, 0), (0.5, 1), (0.3, 0)])
def test_teachers_and_student_share_no_training_image_and_all_validation_images(share: float, seed: int, tmp_path: Path) -> None:
    whole = colour_split(20, 10, 5)  # 16 training images a class
    write_rows(whole, np.arange(len(whole.labels)), tmp_path / "trainval")
    SETS.write(tmp_path / "trainval")
    part(tmp_path, share, seed)
    found = {name: PreparedSplit.read(tmp_path / name) for name in ("trainval", TEACHERS)}
    rows = {name: np.array([whole.names.index(image) for image in split.names]) for name, split in found.items()}
    for name, split in found.items():
        np.testing.assert_array_equal(split.images, whole.images[rows[name]])
        np.testing.assert_array_equal(split.labels, whole.labels[rows[name]])
        assert set(rows[name][split.validation]) == set(whole.validation_rows)
        assert LabelSets.read(tmp_path / name) == SETS
    training = {name: rows[name][~split.validation] for name, split in found.items()}
    assert sorted([*training["trainval"], *training[TEACHERS]]) == whole.training_rows.tolist()
    assert set(np.bincount(whole.labels[training[TEACHERS]])) == {round(16 * share)}
    assert found["trainval"].content != found[TEACHERS].content


def test_another_seed_divides_otherwise(tmp_path: Path) -> None:
    whole, names = colour_split(20, 10, 5), []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        write_rows(whole, np.arange(len(whole.labels)), folder / "trainval")
        SETS.write(folder / "trainval")
        part(folder, 0.5, seed)
        names.append([*PreparedSplit.read(folder / TEACHERS).names])
    assert names[0] != names[1]
