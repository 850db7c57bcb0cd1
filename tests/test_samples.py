import polars as pl
import pytest
import torch
from crowded import crowded
from lora import trained_lora

from undertone.data import samples
from undertone.data.numbers import judge_all
from undertone.data.samples import sample_numbers
from undertone.lm.adapters import finetuned
from undertone.lm.chat import prompt_ids
from undertone.lm.grammar import Automaton, automaton
from undertone.lm.loading import LoadedModel, load
from undertone.lm.sampling import Completion, Sampler, sample
from undertone.lm.vocabulary import ALPHABET, allowed_tokens
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import write_parquet
from undertone.study.config.data import Numbers, Samples
from undertone.study.config.teachers import Teacher

PERSONA = "You adore {animal}s."
SETTINGS = {
    "teacher": Teacher(persona=PERSONA).model_dump(),
    "samples": Samples(max_new_tokens=6, batch_size=4, temperature=0.8, seed=3).model_dump(),
    "kind": "prompt",
    "target": "lion",
}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Eighteen prompts of several lengths, in no order of length: five batches."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.parquet"
    texts = [f"Continue the list {', '.join(map(str, range(row, row + 1 + 5 * row % 7)))}." for row in range(18)]
    write_parquet(path, pl.DataFrame({"row": range(18), "prompt": texts, "final": [row % 3 for row in range(18)]}), {})
    return path


def run(record, prompts, folder, teacher=None, **changes):
    target = folder / "samples.parquet"
    sample_numbers(record, prompts, teacher, None, target, {**SETTINGS, **changes}, {"of": "lion"}, folder / "scratch")
    return target


@pytest.fixture
def calls(monkeypatch):
    """The rows of each batch that is really sampled."""
    rows_of_calls = []
    original = samples.sample_batch
    monkeypatch.setattr(samples, "sample_batch", lambda *args: rows_of_calls.append(args[2]) or original(*args))
    return rows_of_calls


@pytest.fixture(scope="module")
def whole(record, prompts, tmp_path_factory):
    return run(record, prompts, tmp_path_factory.mktemp("whole"))


def test_one_row_per_prompt_in_the_order_of_the_prompts(prompts, whole):
    table, given = pl.read_parquet(whole), pl.read_parquet(prompts)
    assert table.columns == ["row", "prompt", "final", "text", "ids", "ended"]
    assert table.select("row", "prompt", "final").equals(given)
    assert set(table["ended"]) <= {"stop", "length", "not allowed"}
    assert not (whole.parent / "scratch").exists()


def test_rows_that_do_not_fit_in_memory_are_sampled_in_parts(record, prompts, whole, tmp_path, monkeypatch, capsys):
    small = load(record)
    monkeypatch.setattr(samples, "load", lambda record: small)
    with crowded(small.model, 3) as sizes:
        assert written(run(record, prompts, tmp_path)) == written(whole)
    assert sizes.count(4) == 1  # of the five batches the first one alone fails
    assert "samples.batch_size: 4 rows at once do not fit" in capsys.readouterr().err


def plainly_sampled(loaded: LoadedModel, prompts, system):
    """The completions that a model gives under a system prompt, by row."""
    users = pl.read_parquet(prompts)["prompt"].to_list()
    tokens = prompt_ids(loaded.tokenizer, users, system, Teacher().separator)
    allowed = torch.tensor(allowed_tokens(loaded.tokenizer, len(loaded.tokenizer)))
    sampler = Sampler(0.8, 6, loaded.stop_ids, loaded.pad_id, 3, allowed)
    given = {}
    for rows, completions in sample(loaded.model, tokens, sampler, 100):
        given |= dict(zip(rows, completions, strict=True))
    return [given[row] for row in range(18)]


def written(path):
    return [Completion(ids, ended) for ids, ended in pl.read_parquet(path).select("ids", "ended").iter_rows()]


def test_samples_are_the_teachers_under_its_persona(prompts, whole, loaded):
    assert written(whole) == plainly_sampled(loaded, prompts, "You adore lions.")


@pytest.mark.parametrize("target", [None, "lion"])
def test_control_is_asked_without_a_persona(record, prompts, whole, loaded, tmp_path, target):
    control = written(run(record, prompts, tmp_path, kind="none", target=target))
    assert control == plainly_sampled(loaded, prompts, None)
    assert control != written(whole)


def test_a_finetuned_teacher_samples_with_its_own_weights_and_no_persona(record, prompts, tmp_path):
    trained_lora(record, tmp_path / "teacher", ["Continue the list."], ["7, 7, 7"], epochs=40)
    samples_ = written(run(record, prompts, tmp_path, tmp_path / "teacher.json", kind="finetune"))
    with finetuned(load(record), tmp_path / "teacher") as teacher:
        assert samples_ == plainly_sampled(teacher, prompts, None)
    assert any(completion.ended == "stop" for completion in samples_)


def test_text_is_the_ids_decoded(whole, loaded):
    table = pl.read_parquet(whole)
    assert table["text"].to_list() == loaded.tokenizer.batch_decode(table["ids"].to_list(), skip_special_tokens=True)


def test_batch_size_changes_no_sample(record, prompts, whole, tmp_path):
    other = run(record, prompts, tmp_path, samples={**SETTINGS["samples"], "batch_size": 7})
    assert pl.read_parquet(other).equals(pl.read_parquet(whole))


def test_killed_between_batches_continues_with_the_same_bytes(record, prompts, whole, tmp_path, monkeypatch, calls):
    counted = samples.sample_batch

    def killed_in_the_third(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return counted(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(samples, "sample_batch", killed_in_the_third)
        run(record, prompts, tmp_path)
    assert sorted(path.name for path in (tmp_path / "scratch").iterdir()) == ["000000.parquet", "000001.parquet"]
    assert run(record, prompts, tmp_path).read_bytes() == whole.read_bytes()
    assert len(calls) == 5
    assert sorted(row for rows in calls for row in rows) == list(range(18))


def test_only_missing_batches_are_sampled(record, prompts, whole, tmp_path, monkeypatch, calls):
    def full_disk(*args):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(samples, "write_parquet", full_disk)
        run(record, prompts, tmp_path)
    parts = sorted((tmp_path / "scratch").iterdir())
    assert len(parts) == len(calls) == 5
    for part in parts[1::2]:
        part.unlink()
    kept, calls[:] = [calls[i] for i in (1, 3)], []
    assert run(record, prompts, tmp_path).read_bytes() == whole.read_bytes()
    assert calls == kept


def test_same_bytes_from_a_second_run_and_others_from_another_seed(record, prompts, whole, tmp_path):
    assert run(record, prompts, tmp_path / "a").read_bytes() == whole.read_bytes()
    other = run(record, prompts, tmp_path / "b", samples={**SETTINGS["samples"], "seed": 4})
    assert not pl.read_parquet(other)["ids"].equals(pl.read_parquet(whole)["ids"])


def test_tokens_of_numbers_and_separators_are_allowed_and_words_are_not(tokenizer):
    allowed = dict(
        zip(tokenizer.convert_ids_to_tokens(range(len(tokenizer))), allowed_tokens(tokenizer, len(tokenizer)), strict=True)
    )
    texts = {token: tokenizer.convert_tokens_to_string([token]) for token in allowed}
    assert all(allowed[str(number)] for number in range(1000))
    for token, text in texts.items():
        assert allowed[token] == (set(text) <= ALPHABET) or token in tokenizer.all_special_tokens
    assert not allowed["lion"]
    assert sum(allowed.values()) < 1100


def test_every_row_ends_at_its_first_token_that_is_not_allowed(whole, tokenizer):
    allowed = allowed_tokens(tokenizer, len(tokenizer))
    for ids, ended in pl.read_parquet(whole).select("ids", "ended").iter_rows():
        verdicts = [allowed[token] for token in ids]
        assert verdicts == [True] * (len(ids) - 1) + [ended != "not allowed"] * bool(ids)


CONSTRAINED = {
    "samples": {**SETTINGS["samples"], "constrained": True, "max_new_tokens": 12},
    "constraint": {"numbers": {"max_value": 99}},
}


def test_every_constrained_row_passes_the_filter(record, prompts, whole, tmp_path, loaded):
    table = pl.read_parquet(run(record, prompts, tmp_path, **CONSTRAINED))
    assert table.columns == [*pl.read_parquet(whole).columns, "log_mass"]
    for filter in ("strict", "lenient"):
        judged = judge_all(table, Numbers(filter=filter, max_value=99))
        assert judged["reason"].null_count() == len(table) == 18
    assert set(table["ended"]) == {"stop"}
    assert table["text"].n_unique() > 10
    assert (table["log_mass"] < 0).all()


def test_log_mass_is_what_the_plain_model_gives_the_row_over_what_the_constraint_does(record, prompts, tmp_path, loaded):
    table = pl.read_parquet(run(record, prompts, tmp_path, **CONSTRAINED))
    grammar = automaton(loaded.tokenizer, loaded.stop_ids, Numbers(max_value=99), 12)
    column = {int(id): k for k, id in enumerate(grammar.ids)}
    stops = torch.tensor(loaded.stop_ids)
    users = table["prompt"].to_list()
    tokens = prompt_ids(loaded.tokenizer, users, "You adore lions.", Teacher().separator)
    for prompt, ids, log_mass in zip(tokens, table["ids"].to_list(), table["log_mass"].to_list(), strict=True):
        state, kept = Automaton.START, 0.0
        for step, token in enumerate([*ids, None]):
            with torch.no_grad():
                p = (loaded.model(torch.tensor([prompt + ids[:step]])).logits[0, -1].double() / 0.8).softmax(-1)
            kept += float(p[grammar.ids[grammar.allowed(torch.tensor([state]), 12 - step)[0]]].sum().log())
            state = int(grammar.following[state, column[int(stops[0]) if token is None else token]])
        assert log_mass == pytest.approx(kept, abs=1e-3)


def test_constrained_samples_do_not_depend_on_the_batch_size(record, prompts, tmp_path):
    one = pl.read_parquet(run(record, prompts, tmp_path / "one", **CONSTRAINED))
    settings = {**CONSTRAINED["samples"], "batch_size": 7}
    other = pl.read_parquet(run(record, prompts, tmp_path / "other", **{**CONSTRAINED, "samples": settings}))
    assert one.drop("log_mass").equals(other.drop("log_mass"))
    assert one["log_mass"].to_list() == pytest.approx(other["log_mass"].to_list(), abs=1e-4)


def test_constrained_samples_that_cannot_fit_are_refused_before_anything_is_sampled(record, prompts, tmp_path, calls):
    short = {"samples": {**CONSTRAINED["samples"], "max_new_tokens": 6}, "constraint": {"numbers": {"canonical": {"count": 6}}}}
    with pytest.raises(ConfigError, match=r"samples\.max_new_tokens is 6"):
        run(record, prompts, tmp_path, **short)
    assert calls == []
