"""Tags and entities: schemes, F1 as seqeval's, alignment with tokens, the loss, draws, and the estimate."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from handful import episodes
from handful.attach import attach
from handful.backbone import from_model
from handful.batches import Rows, stack
from handful.errors import BackboneError, DataError, HandfulWarning, RequestError
from handful.fit import Schedule, evaluate, fit
from handful.losses import LOSSES, weights
from handful.methods.layernorm import LayerNormTuning
from handful.methods.lora import LoRA
from handful.methods.variants import OnLayers
from handful.prompts import encode, tag_targets
from handful.scoring import UNREAD, Tagger, word_scores
from handful.tagestimate import estimate_tags, f1_interval, tag_temperature
from handful.tagging import (
    Entity,
    bio,
    common,
    count,
    entities,
    entity_f1,
    example_types,
    read_tags,
    spelled,
    tag_set,
    types_of,
)
from handful.types import Example, Params, Task, stack_params
from tiny import TINY
from tinytags import tiny_tagging
from tinytext import random_params, tiny_text, tokenizer

BIO = ["O", "B-A", "I-A", "B-B", "I-B", "I-C-D", "B", "I"]
BIOES = [*BIO, "E-A", "S-A", "E-B", "S-B"]


def draw(rng: random.Random, tags: list[str], sentences: int = 1) -> list[list[str]]:
    return [rng.choices(tags, k=rng.randint(1, 9)) for _ in range(sentences)]


# -- schemes and F1 ----------------------------------------------------------------------------------------------------


def test_schemes_spell_the_same_entities() -> None:
    expected = ("B-P", "I-P", "B-P", "O", "B-L")
    for tags in (
        "B-P I-P B-P O B-L",  # BIO
        "I-P I-P B-P O I-L",  # IOB1
        "B-P E-P S-P O S-L",  # BIOES
        "B-P L-P U-P O U-L",  # BILOU
        "I-P E-P E-P O L-L",  # rules broken: an end that follows nothing begins
    ):
        assert bio(tags.split()) == expected
    assert bio(["B-P", "I-L", "I-L", "I-P"]) == ("B-P", "B-L", "I-L", "B-P")
    assert entities(expected) == [Entity("P", 0, 2), Entity("P", 2, 3), Entity("L", 4, 5)]
    assert entities([]) == []


@pytest.mark.parametrize("tags", [BIO, BIOES])
def test_entities_and_f1_are_seqevals(tags: list[str]) -> None:
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling", reason="seqeval is an extra of development")
    rng = random.Random(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says of divisions by zero
        for _ in range(1000):
            (own,) = draw(rng, tags)
            assert sorted(entities(own)) == sorted((kind, a, b + 1) for kind, a, b in labeling.get_entities(own))
            assert entities(bio(own)) == entities(own)
        for sentences in (1, 2, 10) * 30:
            truth = draw(rng, tags, sentences)
            guess = [[t if rng.random() < 0.6 else rng.choice(tags) for t in own] for own in truth]
            micro, each = entity_f1(truth, guess)
            ours = (micro.precision, micro.recall, micro.f1)
            for mine, name in zip(ours, ("precision", "recall", "f1"), strict=True):
                assert mine == pytest.approx(getattr(labeling, f"{name}_score")(truth, guess), abs=1e-12)
            report = labeling.classification_report(truth, guess, output_dict=True)
            assert micro.support == report["micro avg"]["support"]
            assert {kind: own.support for kind, own in each.items()} == {kind: report[kind]["support"] for kind in each}
            assert all(own.f1 == pytest.approx(report[kind]["f1-score"], abs=1e-12) for kind, own in each.items())


def test_f1_by_hand() -> None:
    micro, each = entity_f1([["B-P", "I-P", "O", "B-L"]], [["B-P", "O", "O", "B-L"]])
    assert (micro.f1, micro.precision, micro.recall, micro.support) == (0.5, 0.5, 0.5, 2)
    assert each["L"].f1 == 1
    assert each["P"].f1 == 0
    nothing, none = entity_f1([["O"]], [["O"]])
    assert (nothing.f1, nothing.support, none) == (0, 0, {})


def test_common_tag_sets() -> None:
    first = Task("a", [Example("u v", None, ("B-P", "B-D"), ("u", "v"))], tag_set(["P", "D"]), "tagging")
    second = Task("b", [Example("w", None, ("B-P",), ("w",))], tag_set(["L", "P"]), "tagging")
    ours = common([first, second])
    assert [task.labels for task in ours] == [("O", "B-P", "I-P")] * 2
    assert ours[0].examples[0].label == ("B-P", "O")
    assert common([first, second], ["L", "P"])[0].labels == tag_set(["L", "P"])
    assert types_of(first.labels) == ("P", "D")
    assert spelled([Entity("P", 1, 3)], 4) == ("O", "B-P", "I-P", "O")


# -- tokens ------------------------------------------------------------------------------------------------------------


def words(*own: str, tags: str = "") -> Example:
    return Example(" ".join(own), None, tuple(tags.split()), own)


def test_the_first_token_of_each_word_carries_its_tag() -> None:
    task = Task("t", [words("ab", "cde", "f", tags="O B-X I-X"), words("q", tags="O")], tag_set(["X"]), "tagging")
    batch = encode(tiny_text(), task.examples)
    assert batch.inputs["word"].tolist() == [[0, 1, 0, 2, 0, 0, 3, 0], [0, 1, 0, 0, 0, 0, 0, 0]]
    targets = tag_targets(task, batch.inputs["word"])
    assert targets.tolist() == [[-100, 0, -100, 1, -100, -100, 2, -100], [-100, 0, *[-100] * 6]]
    plain = encode(tiny_text(), [Example(e.text) for e in task.examples])
    assert torch.equal(plain.inputs["input_ids"], batch.inputs["input_ids"])


def test_words_keep_their_spaces() -> None:
    raw = Tokenizer(models.BPE(unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=100 + len(alphabet), initial_alphabet=alphabet, special_tokens=["?", "|"])
    raw.train_from_iterator(["ab cde f"] * 9, trainer)
    byte_level = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="|", model_max_length=64)
    backbone = replace(tiny_text(), tokenizer=byte_level)
    batch = encode(backbone, [words("ab", "cde", "f", tags="O O O")])
    assert torch.equal(batch.inputs["input_ids"], encode(backbone, [Example("ab cde f")]).inputs["input_ids"])
    assert batch.inputs["word"].tolist() == [[1, 2, 3]]


def test_a_template_is_not_tagged() -> None:
    own = [words("ab", "c", tags="O O")]
    plain, batch = encode(tiny_text(), own), encode(tiny_text(), own, template="go on: {text} !")
    assert batch.inputs["word"].tolist() == [[*[0] * 6, 1, 0, 2, 0, 0]]
    assert plain.inputs["word"].sum() == batch.inputs["word"].sum() == 3
    for template in ("no place", "{text} {text}", "{text} {text_pair}"):
        with pytest.raises(DataError, match="template"):
            encode(tiny_text(), own, template=template)


def test_words_that_are_cut_off_are_said_once_and_outside() -> None:
    long = words(*["abcd"] * 20, tags=" ".join(["B-X"] * 20))
    with pytest.warns(HandfulWarning, match="Cut 1 of 2 sentences to the 64 tokens") as caught:
        batch = encode(tiny_text(), [long, words("a", tags="O")])
    assert len(caught) == 1
    read = int(batch.inputs["word"].max())
    assert 10 < read < 20
    logits = torch.randn(2, batch.inputs["word"].shape[1], 3, generator=torch.Generator().manual_seed(0))
    scores = word_scores(logits, batch.inputs["word"], 20)
    assert scores.shape == (2, 20, 3)
    assert torch.equal(scores[0, 0], logits[0, 1])
    assert scores[0, read:].tolist() == [[0, -UNREAD, -UNREAD]] * (20 - read)
    targets = tag_targets(Task("t", [long, words("a", tags="O")], tag_set(["X"]), "tagging"), batch.inputs["word"])
    assert (targets >= 0).sum(1).tolist() == [read, 1]


def test_what_cannot_be_tagged() -> None:
    with pytest.raises(BackboneError, match="decoder"):
        encode(from_model(TINY["t5"](), tokenizer(), id="t5"), [words("a")])
    with pytest.raises(DataError, match="Row 2 has no words"):
        encode(tiny_text(), [words("a"), words()])
    odd = [replace(words("a", "b"), label=("O",)), words("a", tags="B-Z")]
    for example in odd:
        with pytest.raises(DataError, match="Row 1 has 1 tags"):
            tag_targets(Task("t", [example], tag_set(["X"]), "tagging"), torch.tensor([[0, 1, 0]]))


# -- the loss and the loop ---------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_tags() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 4, 5, generator=generator)
    logits[..., 4] = float("-inf")  # a class of another task
    labels = torch.tensor([[[-100, 1, 2, -100], [0, 0, 3, 1], [-100] * 4]])
    rows, mask = LOSSES["tagging"](logits, labels), torch.tensor([[True, True, True]])
    each = torch.nn.functional.cross_entropy(logits[0].flatten(0, 1), labels[0].flatten(), reduction="none")
    assert rows[0, 0].item() == pytest.approx(each[:4].sum().item() / 2, rel=1e-5)
    assert rows[0, 2] == 0
    count = weights(labels, mask)
    assert count.tolist() == [[2, 4, 0]]
    assert weights(labels, torch.tensor([[True, False, True]])).tolist() == [[2, 0, 0]]
    assert ((rows * count).sum() / count.sum()).item() == pytest.approx(each.sum().item() / 6, rel=1e-5)
    assert weights(torch.tensor([[0, 1, 1]]), mask).tolist() == [[1, 1, 1]]
    assert weights(torch.zeros(1, 3, 2), mask).tolist() == [[1, 1, 1]]


def rows_of(tasks: list[Task], method: OnLayers | LoRA) -> tuple[Tagger, Rows, Params]:
    model = Tagger(attach(tiny_text(), method), "mean", 8.0)
    pool = model.prepared(encode(tiny_text(), [e for task in tasks for e in task.examples]))
    sizes = [len(task.examples) for task in tasks]
    targets = [tag_targets(t, w) for t, w in zip(tasks, pool.inputs["word"].split(sizes), strict=True)]
    starts = np.cumsum([0, *sizes])
    index = [range(start, start + size) for start, size in zip(starts, sizes, strict=False)]
    rows = stack(pool, [list(own) for own in index], targets, [len(task.labels) for task in tasks])
    assert model.adapted is not None
    adapted, classes = model.adapted, rows.class_mask.shape[1]
    each = [
        random_params(
            {**adapted.init(0), "head": {"weight": torch.zeros(classes, 32), "bias": torch.zeros(classes)}}, t
        )
        for t in range(len(tasks))
    ]
    return model, rows, stack_params(each)


@pytest.mark.parametrize("method", [LoRA(rank=2), OnLayers(method=LayerNormTuning(), start=1)], ids=["all", "cached"])
@pytest.mark.parametrize("budget", [16, 4096])
def test_a_task_alone_and_beside_others(method: OnLayers | LoRA, budget: int) -> None:
    tasks = [tiny_tagging(5), tiny_tagging(8, seed=1, kinds=("Y",))]
    model, rows, params = rows_of(tasks, method)
    schedule = Schedule(steps=4, lr=1e-2, batch_size=3)
    together, history = fit(model, params, rows, LOSSES["tagging"], schedule, seed=0, budget=budget)
    assert history.losses.isfinite().all()
    scores = evaluate(model, together, rows, budget=budget)
    assert scores.shape == (2, 8, rows.pool.inputs["word"].shape[1], 5)
    for t, task in enumerate(tasks):
        model, own, _ = rows_of([task], method)
        classes = len(task.labels)
        start = {
            s: {n: p[t : t + 1, :classes] if s == "head" else p[t : t + 1] for n, p in site.items()}
            for s, site in params.items()
        }
        alone, its = fit(model, start, own, LOSSES["tagging"], schedule, seed=0)
        torch.testing.assert_close(its.losses[:, 0], history.losses[:, t], rtol=1e-4, atol=1e-6)
        for site, named in alone.items():
            for name, p in named.items():
                beside = together[site][name][t]
                torch.testing.assert_close(p[0], beside[:classes] if site == "head" else beside, rtol=1e-3, atol=1e-5)
        found = evaluate(model, alone, own)[0]
        at = own.pool.inputs["word"] > 0
        seen = scores[t, : len(task.examples), : at.shape[1], :classes]
        torch.testing.assert_close(found[at], seen[at], rtol=1e-3, atol=1e-3)


def test_the_first_loss_is_the_mean_over_all_tags_of_a_step() -> None:
    task = tiny_tagging(9)
    model, rows, params = rows_of([task], LoRA(rank=2))
    logits = evaluate(model, params, rows)[0]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows.labels[0].flatten())
    for budget in (8, 4096):
        _, history = fit(model, params, rows, LOSSES["tagging"], Schedule(steps=1, lr=0.0), seed=0, budget=budget)
        assert history.losses[0, 0].item() == pytest.approx(expected.item(), rel=1e-4)


def test_prototypes_are_means_over_tokens() -> None:
    task = tiny_tagging(6)
    model, rows, params = rows_of([task], LoRA(rank=2))
    batch = rows.take(torch.tensor([0]), torch.arange(6)[None])
    features = model.features(params, batch)
    head = model.prototypes(features, batch, 5)
    assert batch.labels is not None
    for c in range(5):
        own = features[batch.labels == c]
        torch.testing.assert_close(head["weight"][0, c], own.mean(0) / 8 if len(own) else torch.zeros(32))
    counts = torch.bincount(batch.labels[batch.labels >= 0], minlength=5)
    bias = -4 * head["weight"].square().sum(-1) + ((counts + 0.5) / counts.sum()).log()
    torch.testing.assert_close(head["bias"], bias)
    one = {site: {name: p[0] for name, p in own.items()} for site, own in params.items()}
    single = replace(batch, inputs={n: x[0] for n, x in batch.inputs.items()}, row_mask=batch.row_mask[0], labels=None)
    single = replace(single, class_mask=None)
    torch.testing.assert_close(model(one, single), model(params, batch)[0], rtol=1e-4, atol=1e-4)


# -- draws -------------------------------------------------------------------------------------------------------------


def entity_counts(task: Task) -> Counter[str]:
    return Counter(kind for example in task.examples for kind in example_types(example))


def test_shots_are_entities() -> None:
    task = tiny_tagging(60)
    for k in (1, 3, 5):
        drawn = episodes.shots(task, k, seed=0)
        assert all(count >= k for count in entity_counts(drawn).values())
        assert len(entity_counts(drawn)) == 2
        assert sum(not example_types(e) for e in drawn.examples) == k
        assert len(drawn.examples) <= 3 * k
        assert drawn == episodes.shots(task, k, seed=0)
    assert episodes.shots(task, 3, seed=0) != episodes.shots(task, 3, seed=1)
    few = episodes.subset(task, range(4))
    with pytest.warns(HandfulWarning, match="Fewer than 50 examples in 2 of 2 classes"):
        assert episodes.shots(few, 50, seed=0).examples == few.examples


def test_support_and_query_share_no_sentence() -> None:
    task = tiny_tagging(60)
    task = replace(task, examples=[*task.examples, *task.examples[:10]])
    episode = episodes.sample(task, 3, seed=0, query=4)
    assert not {e.text for e in episode.support.examples} & {e.text for e in episode.query.examples}
    assert all(entity_counts(episode.support)[kind] >= 3 for kind in ("X", "Y"))
    assert all(entity_counts(episode.query)[kind] >= 4 for kind in ("X", "Y"))
    assert episode.query.labels == task.labels
    with pytest.raises(RequestError, match="tagging task"):
        episodes.sample(task, 3, seed=0, ways=2)


def test_folds_keep_sentences_together() -> None:
    task = tiny_tagging(20)
    rare = words("zz", tags="B-Z")
    task = replace(task, examples=[*task.examples, task.examples[0], rare], labels=tag_set(["X", "Y", "Z"]))
    folds = episodes.folds(task, 4, seed=0)
    assert len(folds) == 4
    held = [int(i) for fold in folds for i in fold]
    assert len(held) == len(set(held))
    assert 21 not in held  # the only one with a Z
    (first,) = [f for f, fold in enumerate(folds) if 0 in fold]
    assert 20 in folds[first]
    for fold in folds:
        left = episodes.subset(task, [i for i in range(22) if i not in set(fold.tolist())])
        assert set(entity_counts(left)) == {"X", "Y", "Z"}


# -- the estimate ------------------------------------------------------------------------------------------------------


def scored(tags: list[tuple[str, ...]], labels: tuple[str, ...], flips: float, seed: int = 0) -> np.ndarray:
    """Scores `[n, W, C]` of the right tag for most words, of a random one for the others."""
    rng = np.random.default_rng(seed)
    out = rng.normal(size=(len(tags), max(map(len, tags)), len(labels)))
    for i, own in enumerate(tags):
        for j, tag in enumerate(own):
            out[i, j, rng.integers(len(labels)) if rng.random() < flips else labels.index(tag)] += 6
    return out


def test_the_estimate_is_of_entities() -> None:
    task = tiny_tagging(200)
    truth = [example.label or () for example in task.examples]
    assert all(isinstance(tags, tuple) for tags in truth)
    tags = [tuple(own) for own in truth]
    scores = scored(tags, task.labels, 0.2)
    held = np.arange(200) < 150
    found = estimate_tags(scores, tags, task.labels, held, 4)
    guess = [bio([task.labels[c] for c in row[: len(own)]]) for row, own in zip(scores.argmax(-1), tags, strict=True)]
    micro, each = entity_f1(tags[:150], guess[:150])
    assert found.entity_f1 is not None
    assert found.entity_f1.value == pytest.approx(micro.f1)
    assert found.entity_f1.low < micro.f1 < found.entity_f1.high
    assert found.per_class["X"]["f1"] == pytest.approx(each["X"].f1)
    assert found.macro_f1.value == pytest.approx((each["X"].f1 + each["Y"].f1) / 2)
    assert found.n == 150
    alone = np.mean([a == b for a, b in zip(tags[:150], guess[:150], strict=True)])
    assert found.accuracy.value == pytest.approx(alone)
    assert type(found).from_dict(found.to_dict()) == found
    with pytest.raises(ValueError, match="NaN"):
        estimate_tags(np.where(held[:, None, None], scores, np.nan), tags, task.labels, [True] * 200, 4)
    nothing = estimate_tags(scores, tags, task.labels, [False] * 200, 0)
    assert nothing.entity_f1 is not None
    assert nothing.entity_f1.value is None
    assert nothing.warnings


def test_the_interval_holds_what_other_sentences_give() -> None:
    """Of 100 test sets of 60 sentences, about nine in ten 90 % intervals hold the F1 of all 4,000 sentences."""
    task = tiny_tagging(4000, seed=1)
    tags = [tuple(example.label or ()) for example in task.examples]
    scores = scored(tags, task.labels, 0.25)
    everything = estimate_tags(scores, tags, task.labels, [True] * 4000, 0).entity_f1
    assert everything is not None
    rng, hits, widths = np.random.default_rng(0), 0, list[float]()
    for seed in range(100):
        own = rng.choice(4000, 60, replace=False)
        guess = read_tags(scores[own].argmax(-1).tolist(), [len(tags[i]) for i in own], task.labels)
        micro, _ = f1_interval(count([tags[i] for i in own], guess, ("X", "Y")), seed=seed)
        hits += micro.low <= (everything.value or 0) <= micro.high
        widths.append(micro.high - micro.low)
    assert 82 <= hits <= 98
    assert 0.05 < np.mean(widths) < 0.25


def test_temperatures_of_words() -> None:
    task = tiny_tagging(60)
    tags = [tuple(example.label or ()) for example in task.examples]
    scores = scored(tags, task.labels, 0.3)
    sure = tag_temperature(4 * scores, tags, task.labels)
    assert sure == pytest.approx(4 * tag_temperature(scores, tags, task.labels), rel=0.05)
    assert tag_temperature(np.zeros((0, 3, 5)), [], task.labels) == 1.0
