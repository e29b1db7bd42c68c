"""Optimisers, learning rates step by step, and the average of a network's weights."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from amalgam.optimization import Optimization
from amalgam.student_settings import OptimizerName, SchedulerName
from toy_training import learning_rates, toy


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_adam_and_adamw_are_pytorchs(name: OptimizerName, kind: type) -> None:
    optimizer, _ = Optimization(name, 0.1, 0.01, "cosine", 1).build(nn.Linear(1, 1), 1)
    assert type(optimizer) is kind
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.1, 0.01)


def test_sgd_has_nesterov_momentum() -> None:
    optimizer, _ = Optimization("sgd", 0.1, 0.01, "cosine", 1).build(nn.Linear(1, 1), 1)
    assert isinstance(optimizer, torch.optim.SGD)
    assert {key: optimizer.param_groups[0][key] for key in ("momentum", "nesterov", "weight_decay")} == {
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.01,
    }


def test_the_step_schedule_drops_after_whole_epochs() -> None:
    rates = learning_rates(Optimization("adam", 0.1, 0, "step", 5, scheduler_step=2, scheduler_gamma=0.5), 3)
    np.testing.assert_allclose(rates, [0.1] * 6 + [0.05] * 6 + [0.025] * 3)


def test_warm_up_precedes_the_step_schedule_and_moves_no_drop() -> None:
    rates = learning_rates(Optimization("sgd", 0.1, 0, "step", 4, scheduler_step=2, scheduler_gamma=0.5, warmup_epochs=1), 3)
    np.testing.assert_allclose(rates, [0.025, 0.05, 0.075] + [0.1] * 3 + [0.05] * 6)


def test_a_part_of_an_epoch_may_warm_up() -> None:
    """0.6 epochs of three steps are two, rounded."""
    rates = learning_rates(Optimization("sgd", 0.3, 0, "step", 2, scheduler_step=2, warmup_epochs=0.6), 3)
    np.testing.assert_allclose(rates, [0.1, 0.2] + [0.3] * 4)


@pytest.mark.parametrize("scheduler", ["cosine", "step"])
def test_the_longest_warm_up_ends_at_the_learning_rate(scheduler: SchedulerName) -> None:
    assert learning_rates(Optimization("adamw", 0.1, 0, scheduler, 2, warmup_epochs=1.99), 5)[-1] == pytest.approx(0.1)


def test_the_cosine_schedule_warms_up_and_falls_to_nothing() -> None:
    rates = learning_rates(Optimization("adamw", 0.1, 0, "cosine", 10, warmup_epochs=2), 5)
    np.testing.assert_allclose(rates[:10], 0.1 * np.arange(1, 11) / 11)
    np.testing.assert_allclose(rates[10:], [0.05 * (1 + math.cos(math.pi * i / 40)) for i in range(40)])


def test_one_cycle_rises_to_lr_and_falls_to_almost_nothing() -> None:
    """From a twenty-fifth of the peak, as PyTorch has it, to a ten-thousandth of that, as the paper has it."""
    rates = learning_rates(Optimization("adamw", 0.1, 0, "one_cycle", 10), 10)
    peak = int(np.argmax(rates))
    assert peak == 29, "after 30 % of the steps"
    assert [rates[0], rates[peak], rates[-1]] == pytest.approx([0.1 / 25, 0.1, 0.1 / 25 / 1e4], rel=1e-3)
    assert all(np.diff(rates[: peak + 1]) > 0)
    assert all(np.diff(rates[peak:]) < 0)


def test_one_cycles_momentum_goes_the_other_way() -> None:
    optimizer, scheduler = Optimization("adamw", 0.1, 0, "one_cycle", 10).build(nn.Linear(1, 1), 10)
    momenta = []
    for _ in range(100):
        momenta.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        scheduler.step()
    assert [momenta[step] for step in (0, 29, 99)] == pytest.approx([0.95, 0.85, 0.95])


def test_a_single_step_is_taken_at_lr() -> None:
    """One cycle of one step would be its beginning alone, a millionth of lr."""
    for warmup in (0, 2):
        assert learning_rates(Optimization("adamw", 0.1, 0, "one_cycle", 1, warmup_epochs=warmup), 1) == [0.1]


def test_the_average_is_bit_for_bit_that_of_pytorchs_own_loop() -> None:
    """Which a GPU would have to be waited for; batch norm's statistics included, of whose counts PyTorch's takes a mean, cut down."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.PReLU(), nn.Flatten(), nn.LazyLinear(2))
    network(torch.randn(4, 3, 6, 6))
    theirs = AveragedModel(network, use_buffers=True)
    ours = Optimization("sgd", 0.1, 0.0, "cosine", 1, ema_decay=0.8).average(replace(toy(), network=network))
    for count in range(50):
        network(torch.randn(4, 3, 6, 6)).square().sum().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        theirs.multi_avg_fn = get_ema_multi_avg_fn(min(0.8, (1 + count) / (10 + count)))  # type: ignore[no-untyped-call]
        theirs.update_parameters(network)
        ours.update()
        assert ours.model is not None
        expected = theirs.state_dict() | {"module.1.num_batches_tracked": network.state_dict()["1.num_batches_tracked"]}
        torch.testing.assert_close(ours.model.state_dict(), expected, rtol=0, atol=0)


def test_the_average_of_a_network_that_stays_the_same_is_that_network() -> None:
    """Its indices too, of which every mean is a little less in single precision, and would be cut down to the one before."""
    network = nn.Linear(3, 2)
    network.register_buffer("places", torch.arange(1024), persistent=False)
    network.register_buffer("share", torch.rand(7))
    ours = Optimization("sgd", 0.1, 0.0, "cosine", 1, ema_decay=0.99).average(replace(toy(), network=network))
    for _ in range(100):
        ours.update()
    assert ours.model is not None
    assert torch.equal(ours.model.module.get_buffer("places"), torch.arange(1024))
    torch.testing.assert_close(ours.model.module.get_buffer("share"), network.get_buffer("share"))


def test_the_average_takes_over_a_table_that_the_network_makes_at_its_first_images() -> None:
    network = nn.Linear(3, 2)
    network.register_buffer("table", torch.zeros(1), persistent=False)
    ours = Optimization("sgd", 0.1, 0.0, "cosine", 1, ema_decay=0.9).average(replace(toy(), network=network))
    for entries in (4, 4, 9):
        network.table = torch.rand(entries)
        ours.update()
        assert ours.model is not None
        assert ours.model.module.get_buffer("table").shape == (entries,)
    assert ours.model is not None
    assert torch.equal(ours.model.module.get_buffer("table"), network.get_buffer("table"))
