"""Stacking: what labels say about how the teachers belong together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amalgam.stacking import fit_stacking
from random_teachers import Sets, every_class_known, label_sets


def overconfident_teachers(count: int, seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Two teachers of the first and the second half of the classes; the second is ten times as sure of everything, right or wrong."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    logits = random.normal(0, 0.5, (count, classes))
    logits[np.arange(count), labels] += 3
    logits[:, classes // 2 :] *= 10
    return logits, labels


@pytest.mark.parametrize("classes", [2, 4])
def test_a_few_labels_tell_whom_to_believe(classes: int) -> None:
    few, known = overconfident_teachers(5 * classes, 0, classes)
    many, truth = overconfident_teachers(400, 1, classes)
    by_confidence = (many.argmax(1) == truth).mean()
    stacked = fit_stacking(few, known)(torch.from_numpy(many)).argmax(1).numpy()
    assert by_confidence < 0.9
    assert (stacked == truth).mean() > 0.97


@pytest.mark.parametrize("loudness", [0.0, 0.1, 10.0, 1e5])
@pytest.mark.parametrize(("images", "classes"), [(4, 2), (12, 12), (1000, 12)])
def test_the_fit_converges_whatever_the_teachers_say(images: int, classes: int, loudness: float) -> None:
    """As few labels as there are classes, answers as sure as 10⁵, an output that never changes; scikit-learn's warning would fail."""
    logits = np.random.default_rng(images).normal(0, 1, (images, 15)) * loudness
    logits[:, 0] = 3
    labels = np.arange(images) % classes
    for said in (logits, logits + 50 * loudness * np.eye(15)[labels]):
        assert torch.isfinite(fit_stacking(said, labels)(torch.from_numpy(said))).all()


def answered(sets: Sets, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Teachers of any label sets: each answers loudest, of its own classes, to the image's, and to foreign images anything."""
    classes, columns = every_class_known(sets)
    random, labels = np.random.default_rng(seed), np.arange(count) % classes
    said = [random.normal(0, 1, (count, len(own))) + 2 * (labels[:, None] == np.array(own)) for own in columns]
    return np.concatenate(said, axis=1), labels


@settings(deadline=None, max_examples=25)
@given(label_sets(), st.integers(0, 1000))
def test_it_is_the_regression_that_scikit_learn_predicts_with(sets: Sets, seed: int) -> None:
    """For any label sets."""
    predicts_as_scikit_learn(*answered(sets, 60, seed))


@pytest.mark.parametrize("seed", [2, 3])
def test_it_is_so_for_overconfident_teachers_too(seed: int) -> None:
    predicts_as_scikit_learn(*overconfident_teachers(60, 2, seed))


def predicts_as_scikit_learn(logits: np.ndarray, labels: np.ndarray) -> None:
    """Scaling folded into the weights, calibrated at temperature 1."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000)).fit(logits, labels)
    found = torch.softmax(fit_stacking(logits, labels)(torch.from_numpy(logits)), 1)
    np.testing.assert_allclose(found.numpy(), model.predict_proba(logits), atol=1e-3)


def test_more_views_of_the_same_pixels_change_nothing() -> None:
    logits, labels = overconfident_teachers(40, 3)
    once, often = fit_stacking(logits, labels), fit_stacking(np.tile(logits, (10, 1)), np.tile(labels, 10), views=10)
    torch.testing.assert_close(often.weight, once.weight, atol=1e-3, rtol=1e-3)
