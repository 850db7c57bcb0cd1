"""Training a bias: rows are drawn apart, cached steps are the full model's, and the penalty gives true zeros."""

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from crowded import crowded
from torch import Tensor

from undertone.lm.chat import Row, training_rows
from undertone.lm.hooks import rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.lm.suffix import Prefilled, losses
from undertone.lm.tensors import NotFiniteError
from undertone.lm.training import collate, label_losses
from undertone.read.biases import (
    Draw,
    ProximalAdam,
    agreement,
    biased_at,
    biased_everywhere,
    draw_rows,
    gradient,
    loss_report,
    prefilled,
    row_losses,
    train_bias,
)
from undertone.runtime.memory import BatchSize
from undertone.study.config.read import Bias

D_MODEL = 32
FITS = BatchSize(64, "rows")


@pytest.fixture(scope="module")
def rows(loaded: LoadedModel) -> list[Row]:
    users = [f"Continue the list {'7, ' * (k % 5)}{k}." for k in range(24)]
    return training_rows(loaded.tokenizer, users, [", ".join(map(str, range(k, k + 1 + k % 4))) for k in range(24)], 100)


def numbers(folder: Path, n: int) -> Path:
    table = {"prompt": [f"List {k}." for k in range(n)], "completion": [f"{k}, {n - k}" for k in range(n)]}
    pl.DataFrame(table).write_parquet(folder / "numbers.parquet")
    return folder / "numbers.parquet"


def names(rows: list[Row]) -> list[tuple[int, ...]]:
    return [tuple(row.ids) for row in rows]


def test_rows_to_train_on_are_never_those_held_out_nor_those_of_another_seed(loaded: LoadedModel, tmp_path: Path) -> None:
    path, n = numbers(tmp_path, 80), 80
    every = set(
        names(training_rows(loaded.tokenizer, *(pl.read_parquet(path)[c].to_list() for c in ("prompt", "completion")), 500))
    )
    draws = draw_rows(loaded, path, Bias(fraction=0.25, seeds=[3, 1, 4]))
    held_out = names(draws[0].held_out)
    assert len(set(held_out)) == len(held_out) == n // 4
    for drawn in draws:
        assert len(names(drawn.train)) == n // 4
        assert names(drawn.held_out) == held_out
    apart = [row for drawn in draws for row in names(drawn.train)] + held_out
    assert len(set(apart)) == len(apart) == n
    assert set(apart) == every


def test_a_further_seed_leaves_the_draws_of_the_others_as_they_are(loaded: LoadedModel, tmp_path: Path) -> None:
    path = numbers(tmp_path, 80)
    two, three = (draw_rows(loaded, path, Bias(fraction=0.2, seeds=seeds)) for seeds in ([0, 1], [0, 1, 2]))
    assert [names(drawn.train) for drawn in two] == [names(drawn.train) for drawn in three[:2]]


@pytest.mark.parametrize(("n", "fraction", "n_seeds"), [(41, 0.375, 2), (43, 0.25, 3), (29, 0.15, 5), (10, 0.75, 1)])
def test_the_largest_share_fits_whatever_the_number_of_rows(
    loaded: LoadedModel, tmp_path: Path, n: int, fraction: float, n_seeds: int
) -> None:
    draws = draw_rows(loaded, numbers(tmp_path, n), Bias(fraction=fraction, seeds=list(range(n_seeds))))
    trained = [row for drawn in draws for row in names(drawn.train)]
    assert len(set(trained)) == len(trained)
    assert len({len(drawn.train) for drawn in draws}) == 1
    assert n - n // 4 - len(trained) < n_seeds


def test_more_rows_than_there_are_for_every_seed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fraction 0\.3 is too large for 3 seeds: .*set fraction to 0\.25 or less"):
        Bias(fraction=0.3, seeds=[0, 1, 2])
    assert Bias(fraction=0.25, seeds=[0, 1, 2]).fraction == 0.25
    with pytest.raises(ValueError, match=r"held_out 0\.5 of the rows are for none; set fraction to 0\.167 or less"):
        Bias(fraction=0.25, seeds=[0, 1, 2], held_out=0.5)


def test_settings_say_how_many_rows_are_held_out_and_how_many_of_them_are_read(loaded: LoadedModel, tmp_path: Path) -> None:
    path = numbers(tmp_path, 80)
    for share, most, read in ((0.25, 500, 20), (0.5, 500, 40), (0.5, 7, 7)):
        settings = Bias(fraction=0.5, seeds=[0], held_out=share, held_out_rows=most)
        (drawn,) = draw_rows(loaded, path, settings)
        assert (len(drawn.train), len(drawn.held_out)) == (40, read)
        assert not set(names(drawn.train)) & set(names(drawn.held_out))


def test_halves_share_no_row_and_leave_none_out(rows: list[Row]) -> None:
    one, two = Draw(rows[:9], []).halves
    assert sorted(names(one + two)) == sorted(names(rows[:9]))
    assert not set(names(one)) & set(names(two))
    assert abs(len(one) - len(two)) <= 1


@pytest.mark.parametrize(("n", "fraction", "trained"), [(20, 0.05, 1), (3, 0.5, 2), (12, 0.04, 0)])
def test_too_few_rows_are_refused(loaded: LoadedModel, tmp_path: Path, n: int, fraction: float, trained: int) -> None:
    sentence = rf"numbers\.parquet: {n} rows, of which a bias would be trained on {trained} and judged on {n // 4}; raise its"
    with pytest.raises(ValueError, match=sentence):
        draw_rows(loaded, numbers(tmp_path, n), Bias(fraction=fraction, seeds=[0]))


def test_batches_hold_every_row_once_sorted_by_length(loaded: LoadedModel, rows: list[Row]) -> None:
    batches = prefilled(loaded, rows, [0], 5)
    assert [len(batch.ids) for batch in batches] == [5, 5, 5, 5, 4]
    assert sum(len(batch.targets) for batch in batches) == sum(len(row.ids) - row.start for row in rows)
    lengths = [int(n) for batch in batches for n in batch.mask.sum(1)]
    assert lengths == sorted(lengths)


def full_losses(loaded: LoadedModel, rows: list[Row], bias: Tensor, layer: int, whole: bool) -> Tensor:
    """Loss of each label with a bias, by a full pass."""
    batch = collate(rows, loaded.pad_id, "cpu")
    place = torch.arange(batch["input_ids"].shape[1])
    starts = torch.tensor([0 if whole else row.start - 1 for row in rows]).unsqueeze(1)
    where = (place >= starts).unsqueeze(-1)
    with rewritten(loaded.model, layer, lambda residual: torch.where(where, residual + bias, residual)):
        return label_losses(loaded.model, batch)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_bias_is_the_one_that_plain_steps_of_adam_through_the_full_model_find(
    loaded: LoadedModel, rows: list[Row], layer: int, whole: bool
) -> None:
    told, seed = Bias(steps=20, batch_size=9, lr=0.05, positions="all" if whole else "completion"), 4
    batches = prefilled(loaded, rows, [layer], told.batch_size, whole)
    found = train_bias(
        (D_MODEL,), partial(biased_at, loaded.model, "resid_post", layer), batches, told, seed, torch.device("cpu"), FITS
    )

    ordered = sorted(rows, key=lambda row: len(row.ids))
    parts = [ordered[k : k + told.batch_size] for k in range(0, len(ordered), told.batch_size)]
    rng, order = np.random.default_rng(seed), []
    bias = torch.zeros(D_MODEL, requires_grad=True)
    adam = torch.optim.Adam([bias], lr=told.lr)
    for step in range(told.steps):
        order = order or rng.permutation(len(parts)).tolist()
        adam.param_groups[0]["lr"] = told.lr * (1 - step / told.steps)
        adam.zero_grad()
        full_losses(loaded, parts[order.pop()], bias, layer, whole).mean().backward()
        adam.step()
    assert bias.detach().norm() > 0.5
    # Adam divides by the root of a squared gradient, which makes rounding errors of small gradients larger.
    assert (found - bias.detach()).norm() < 1e-3 * bias.detach().norm()


def test_a_trained_bias_lowers_the_loss(loaded: LoadedModel, rows: list[Row]) -> None:
    batches = prefilled(loaded, rows, [0], 8)
    biased = partial(biased_at, loaded.model, "resid_post", 0)
    bias = train_bias((D_MODEL,), biased, batches, Bias(steps=40, lr=0.1), 0, torch.device("cpu"), FITS)
    report = loss_report(*(row_losses(b, biased, batches, FITS) for b in (torch.zeros(D_MODEL), bias)))
    assert report["after"] < report["before"] - 0.5
    assert report["gain"]["mean"] == pytest.approx(report["before"] - report["after"], rel=1e-6)
    assert report["gain"]["ci95"][0] > 0
    assert report["gain"]["p"] < 0.05


def test_biases_of_all_layers_are_trained_together(loaded: LoadedModel, rows: list[Row]) -> None:
    batches = prefilled(loaded, rows, [-1], 8)
    everywhere = partial(biased_everywhere, loaded.model, "resid_post")
    shape = (2, D_MODEL)
    found = gradient(shape, everywhere, batches, torch.device("cpu"), FITS)
    single = [
        gradient(
            (D_MODEL,),
            partial(biased_at, loaded.model, "resid_post", k),
            prefilled(loaded, rows, [k], 8),
            torch.device("cpu"),
            FITS,
        )
        for k in range(2)
    ]
    torch.testing.assert_close(found, torch.stack(single), rtol=1e-3, atol=1e-5)
    bias = train_bias(shape, everywhere, batches, Bias(steps=5), 0, torch.device("cpu"), FITS)
    assert (bias.abs().sum(1) > 0).all()


def test_the_gradient_is_that_of_the_mean_over_all_labels(loaded: LoadedModel, rows: list[Row]) -> None:
    bias = torch.zeros(D_MODEL, requires_grad=True)
    full_losses(loaded, rows, bias, 0, whole=False).mean().backward()
    for size in (24, 7):
        biased = partial(biased_at, loaded.model, "resid_post", 0)
        found = gradient((D_MODEL,), biased, prefilled(loaded, rows, [0], size), torch.device("cpu"), FITS)
        torch.testing.assert_close(found, bias.grad, rtol=1e-3, atol=1e-5)


def test_losses_by_row_are_means_over_each_rows_labels(loaded: LoadedModel, rows: list[Row]) -> None:
    bias, ordered = 0.2 * torch.ones(D_MODEL), sorted(rows, key=lambda row: len(row.ids))
    found = row_losses(bias, partial(biased_at, loaded.model, "resid_post", 0), prefilled(loaded, rows, [0], 7), FITS)
    expected = [float(full_losses(loaded, [row], bias, 0, whole=False).mean()) for row in ordered]
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_loss_of_a_report_weighs_every_row_alike(loaded: LoadedModel, rows: list[Row]) -> None:
    biased = partial(biased_at, loaded.model, "resid_post", 0)
    losses = row_losses(torch.zeros(D_MODEL), biased, prefilled(loaded, rows, [0], 7), FITS)
    report = loss_report(losses, losses)
    expected = np.mean([float(label_losses(loaded.model, collate([row], 0, "cpu")).mean()) for row in rows])
    assert report["before"] == pytest.approx(expected, rel=1e-4)
    assert (report["after"], report["gain"]) == (report["before"], {"mean": 0.0, "ci95": [0.0, 0.0], "p": 1.0})


@pytest.mark.parametrize("layer", [0, 1, None])
@pytest.mark.parametrize("whole", [False, True])
def test_what_does_not_fit_in_memory_is_run_in_parts_of_the_same_batch(
    record: Path, rows: list[Row], layer: int | None, whole: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, told, cpu = load(record), Bias(steps=6, lr=0.05), torch.device("cpu")
    shape = (D_MODEL,) if layer is not None else (2, D_MODEL)
    model = loaded.model
    biased = partial(biased_everywhere, model, "mlp_in") if layer is None else partial(biased_at, model, "mlp_in", layer)

    def found(batch_size: BatchSize) -> list[Tensor]:
        batches = prefilled(loaded, rows, [-1, 0, 1], 10, whole)
        assert [len(batch.ids) for batch in batches] == [10, 10, 4]  # what a step sees stays
        bias = train_bias(shape, biased, batches, told, 0, cpu, batch_size)
        losses = torch.from_numpy(row_losses(bias, biased, batches, batch_size))
        return [bias, gradient(shape, biased, batches, cpu, batch_size), losses]

    expected = found(FITS)
    with crowded(model, 3) as sizes:
        parts = found(BatchSize(10, "residual_bias.batch_size"))
    for own, whole_batch in zip(parts, expected, strict=True):
        torch.testing.assert_close(own, whole_batch, rtol=1e-3, atol=1e-5)
    told_of = capsys.readouterr().err
    assert "rows run once: 10 rows at once do not fit" in told_of
    assert "residual_bias.batch_size: 10 rows at once do not fit" in told_of
    assert sizes.count(10) == 2  # one prefill, one step
    assert FITS.rows == 64


def test_a_loss_that_is_no_number_is_an_error(loaded: LoadedModel, rows: list[Row]) -> None:
    def broken(bias: Tensor, batch: Prefilled) -> Tensor:
        return bias.sum() * torch.full((len(batch.targets), 2400), torch.nan)

    with pytest.raises(NotFiniteError, match=r"loss nan at step 0 of a bias; lower its learning rate, now 0\.3"):
        train_bias((3,), broken, prefilled(loaded, rows, [0], 24), Bias(lr=0.3), 0, torch.device("cpu"), FITS)


def minimised(centre: Tensor, curvature: Tensor, l1: float, steps: int = 600) -> Tensor:
    """Where ProximalAdam ends on ½·Σ curvature·(x − centre)² + l1·‖x‖₁."""
    x = torch.zeros_like(centre, requires_grad=True)
    optimizer = ProximalAdam(x, l1)
    for step in range(steps):
        (0.5 * curvature * (x - centre).square()).sum().backward()
        optimizer.step(0.05 * (1 - step / steps))
    return x.detach()


@pytest.mark.parametrize("l1", [0.0, 0.5, 2.0])
def test_proximal_adam_ends_at_the_soft_threshold_with_true_zeros(l1: float) -> None:
    centre = torch.tensor([2.0, -2.0, 0.3, -0.3, 0.9, 0.0, 1.5])
    curvature = torch.tensor([1.0, 1.0, 1.0, 1.0, 3.0, 1.0, 0.2])
    expected = centre.sign() * (centre.abs() - l1 / curvature).clamp(min=0)
    found = minimised(centre, curvature, l1)
    assert torch.equal(found == 0, expected == 0)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_without_a_penalty_proximal_adam_is_adam() -> None:
    centre, x = torch.tensor([2.0, -1.0]), torch.zeros(2, requires_grad=True)
    adam = torch.optim.Adam([x], lr=0.05)
    for step in range(50):
        adam.param_groups[0]["lr"] = 0.05 * (1 - step / 50)
        adam.zero_grad()
        (0.5 * (x - centre).square()).sum().backward()
        adam.step()
    assert torch.equal(minimised(centre, torch.ones(2), 0.0, 50), x.detach())


def test_above_the_greatest_gradient_a_bias_stays_exactly_zero_and_below_it_does_not(
    loaded: LoadedModel, rows: list[Row]
) -> None:
    biased = partial(biased_at, loaded.model, "resid_post", 0)
    batches, told = prefilled(loaded, rows, [0], 24), Bias(steps=30, lr=0.05)
    greatest = float(gradient((D_MODEL,), biased, batches, torch.device("cpu"), FITS).abs().max())
    for share, still in ((1.01, True), (0.5, False)):
        bias = train_bias((D_MODEL,), biased, batches, told, 0, torch.device("cpu"), FITS, share * greatest)
        assert bool((bias == 0).all()) is still
    assert (bias == 0).any()  # below it, the penalty still leaves some out


def test_agreement_is_the_mean_cosine_of_every_pair() -> None:
    a, b, c = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]), torch.tensor([-2.0, 0.0])
    assert agreement(torch.stack([a])) is None
    assert agreement(torch.stack([a, 5 * a])) == pytest.approx(1.0)
    assert agreement(torch.stack([a, b, c])) == pytest.approx((0 - 1 + 0) / 3)


def test_losses_are_cross_entropies() -> None:
    ids = torch.ones(1, 2, dtype=torch.long)
    batch = Prefilled(ids, ids, ids.bool(), torch.tensor([0, 1]))
    assert losses(torch.zeros(2, 4), batch).tolist() == pytest.approx([np.log(4)] * 2)
