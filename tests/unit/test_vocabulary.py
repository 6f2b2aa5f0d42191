"""Words are scored as transformers' own language models score them, whatever lies between states and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tr
from torch import Tensor, nn

from handful.backbone import Backbone, from_model
from handful.choices import NOTHING
from handful.chooser import read as logp_of
from handful.errors import BackboneError
from handful.forward import run_backbone
from handful.vocabulary import vocabulary
from tiny import ENCODER_DECODERS, TINY, tiny_inputs

DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3", "gpt2")
MASKED = ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "mpnet", "deberta-v2", "modernbert")
BESIDE = tuple(sorted(ENCODER_DECODERS - {"whisper"}))
KINDS: dict[str, Any] = {
    **dict.fromkeys(DECODERS, tr.AutoModelForCausalLM),
    **dict.fromkeys(MASKED, tr.AutoModelForMaskedLM),
    **dict.fromkeys(BESIDE, tr.AutoModelForSeq2SeqLM),
    "whisper": tr.AutoModelForSpeechSeq2Seq,
}


def written(name: str, tied: bool, folder: Path) -> nn.Module:
    """A language model of random weights, biases among them, as `save_pretrained` writes it."""
    config = TINY[name]().config
    config.tie_word_embeddings = tied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = KINDS[name].from_config(config).eval()
        with torch.no_grad():
            for own in [*model.parameters(), *(b for n, b in model.named_buffers() if n == "final_logits_bias")]:
                own.add_(torch.randn_like(own), alpha=0.3)
            if hasattr(model, "shared"):  # T5's stacks read one table, whether or not the output layer is it
                for stack in (model.encoder, model.decoder):
                    stack.embed_tokens.weight.copy_(model.shared.weight)
    model.save_pretrained(folder)
    return KINDS[name].from_pretrained(folder)  # how transformers reads it is what counts


def read(folder: Path) -> Backbone:
    return from_model(tr.AutoModel.from_pretrained(folder), id=str(folder))


def states(backbone: Backbone, inputs: dict[str, Tensor]) -> Tensor:
    return backbone.model(**inputs).last_hidden_state


@pytest.mark.parametrize(
    ("name", "tied"), [(name, tied) for name in KINDS for tied in (True, False) if tied or name != "whisper"]
)
def test_scores_are_those_of_the_language_model(name: str, tied: bool, tmp_path: Path) -> None:
    model, inputs = written(name, tied, tmp_path), tiny_inputs(name, 2, 5)
    backbone = read(tmp_path)
    with torch.no_grad():
        expected = model(**inputs).logits
        given = states(backbone, inputs)
        found = vocabulary(backbone)(given)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert expected.std() > 0.1
        for shape in ((), (3,), (1, 2, 2)):  # any leading dimensions
            some = given.flatten(0, -2)[: torch.Size(shape).numel()].reshape(*shape, -1)
            own = vocabulary(backbone)(some)
            assert own.shape == (*shape, expected.shape[-1])
            same = found.flatten(0, -2)[: torch.Size(shape).numel()]
            torch.testing.assert_close(own.reshape(same.shape), same)


@pytest.mark.parametrize("name", sorted(ENCODER_DECODERS))
def test_choices_beside_what_is_encoded_once(name: str, tmp_path: Path) -> None:
    """Texts and recordings: each of several choices is as probable as the language model finds it alone."""
    model, inputs = written(name, True, tmp_path), tiny_inputs(name, 2, 5)
    backbone = read(tmp_path)
    own = {key: value for key, value in inputs.items() if not key.startswith("decoder_")}
    lengths = torch.tensor([[5, 2, 1], [3, 4, 0]])
    real = torch.arange(5) < lengths[..., None]
    targets = torch.randint(5, 40, real.shape, generator=torch.Generator().manual_seed(2)).masked_fill(~real, NOTHING)
    before = targets.roll(1, -1).masked_fill(~real, 0)
    before[..., 0] = 2
    source = torch.arange(15).reshape(3, 5).expand_as(targets)
    asked = own | {"decoder_input_ids": before, "decoder_attention_mask": real.long(), "source": source}
    with torch.no_grad():
        hidden, _ = run_backbone(backbone, asked)
        found = logp_of(vocabulary(backbone), hidden, source, targets)
        for row, choice in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)):
            each = {key: value[row : row + 1] for key, value in own.items()}
            size = int(lengths[row, choice])
            expected = model(**each, decoder_input_ids=before[row, choice, None, :size]).logits.log_softmax(-1)[0]
            expected = expected.gather(-1, targets[row, choice, :size, None])[:, 0]
            torch.testing.assert_close(found[row, choice, :size], expected, rtol=1e-5, atol=1e-5)
        assert found[1, 2].isneginf().all()


def test_an_output_layer_of_its_own_that_only_the_files_tell_of(tmp_path: Path) -> None:
    """As in T5 1.1 and T0, whose configurations say that it is the table of embeddings."""
    model, inputs = written("t5", False, tmp_path), tiny_inputs("t5", 2, 5)
    assert model.config.tie_word_embeddings
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    backbone = read(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(vocabulary(backbone)(states(backbone, inputs)), model(**inputs).logits)
        assert not torch.equal(vocabulary(backbone).language_model.lm_head.weight, backbone.model.shared.weight)


def test_gradients_reach_the_states_and_nothing_else(tmp_path: Path) -> None:
    written("llama", False, tmp_path)
    words = vocabulary(read(tmp_path))
    given = torch.randn(3, 32, requires_grad=True)
    words(given).sum().backward()
    assert given.grad is not None
    assert given.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in words.language_model.parameters())


def test_the_body_is_not_held_twice_and_the_layer_is_read_once(tmp_path: Path) -> None:
    written("qwen2", True, tmp_path)
    backbone = read(tmp_path)
    before = dict(backbone.model.state_dict())
    words = vocabulary(backbone)
    assert vocabulary(backbone) is words
    (table,) = words.language_model.parameters()
    assert table.data_ptr() == backbone.model.get_input_embeddings().weight.data_ptr()
    after = backbone.model.state_dict()
    assert list(after) == list(before)
    assert all(after[name].data_ptr() == tensor.data_ptr() for name, tensor in before.items())


@pytest.mark.parametrize(
    ("name", "found"),
    [("llama", "Its files lack the output layer (lm_head.weight first)"), ("bert", "cls.predictions")],
)
def test_a_checkpoint_without_its_head(name: str, found: str, tmp_path: Path) -> None:
    model = TINY[name]()
    model.config.tie_word_embeddings = name == "bert"
    model.save_pretrained(tmp_path)
    with pytest.raises(BackboneError) as caught:
        vocabulary(read(tmp_path))
    assert found in caught.value.found
    assert "saved with its language-model head" in caught.value.todo


def test_a_backbone_that_is_nowhere_on_disk() -> None:
    with pytest.raises(BackboneError) as caught:
        vocabulary(from_model(TINY["llama"](), id="nowhere"))
    assert "cannot be read" in caught.value.found


@pytest.mark.parametrize("name", ["vit", "wav2vec2"])
def test_a_backbone_without_words(name: str) -> None:
    with pytest.raises(BackboneError) as caught:
        vocabulary(from_model(TINY[name]()))
    assert "no words to answer with" in caught.value.found
