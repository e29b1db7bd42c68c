"""What an epoch's batches hold: every image once, in an order of its own, and mixed with a partner."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amalgam.batches import mixed_images, shuffled_batches, steps_per_epoch
from toy_training import batches


@given(st.integers(1, 300), st.integers(2, 64), st.integers(0, 100), st.integers(0, 20))
@settings(deadline=None)
def test_an_epoch_sees_every_image_once_in_batches_of_nearly_one_size(count: int, size: int, seed: int, epoch: int) -> None:
    rows = np.arange(count) * 3
    batches = shuffled_batches(rows, size, seed, epoch)
    assert len(batches) == steps_per_epoch(count, size)
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), rows)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= max(size, 3)
    assert min(sizes) >= min(count, 2)
    assert max(sizes) - min(sizes) <= 1


def test_epochs_and_seeds_differ_in_order_and_repeat_exactly() -> None:
    orders = {np.concatenate(shuffled_batches(np.arange(50), 8, seed, epoch)).tobytes() for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    again = np.concatenate(shuffled_batches(np.arange(50), 8, 1, 1))
    assert again.tobytes() in orders


def test_a_mixed_batch_keeps_what_belongs_to_each_image_and_to_its_partner() -> None:
    batch = next(batches(0))._replace(teacher_logits=torch.arange(16.0).view(8, 2))
    images, mixture = mixed_images(lambda rows: batch.images[rows], np.arange(8), 1.0, np.random.default_rng(0), slice(0, 8))
    assert mixture is not None
    result, (partner, share) = batch._replace(images=images, mixture=mixture), mixture
    expected = share * batch.images.float() + (1 - share) * batch.images[partner].float()
    torch.testing.assert_close(result.images.float(), expected, atol=0.5, rtol=0)
    other = result.partners()
    assert torch.equal(other.labels, batch.labels[partner])
    assert other.teacher_logits is not None
    assert torch.equal(other.teacher_logits, batch.teacher_logits[partner])  # type: ignore[index]
    part, _ = mixed_images(lambda rows: batch.images[rows], np.arange(8), 1.0, np.random.default_rng(0), slice(3, 5))
    assert torch.equal(part, images[3:5]), "a process mixes its share as one alone mixes all"


def test_shares_of_mixed_images_are_drawn_from_the_beta_distribution() -> None:
    """Beta(s, s) has variance 1 / (4 (2 s + 1))."""
    random, blank = np.random.default_rng(0), torch.zeros(2, 1, 1, 3)
    for strength in (0.1, 2.0):
        mixtures = [mixed_images(lambda _: blank, np.arange(2), strength, random, slice(0, 2))[1] for _ in range(2000)]
        assert np.var([mixture.share for mixture in mixtures if mixture]) == pytest.approx(1 / (4 * (2 * strength + 1)), abs=0.01)
