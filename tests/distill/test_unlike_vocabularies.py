import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from nanbeige_core.data.special_tokens import FIRST, LAST
from nanbeige_core.distill.text_spans import align_spans, cuts, response_region, tokenize_with_offsets
from nanbeige_core.distill.unlike_vocabularies import Twins, find_twins, gold, uld
from tests.sft.tiny_tokenizer import tiny_tokenizer

TEXT = "The answer is 42, because 6 * 7 = 42. Die Lösung ist größer als 数学 🙂 and so on and so on."


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with merges and no knowledge of the chat's special tokens but the end of a turn."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        [TEXT] * 5, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def spans_of(response: str):
    ours, theirs = tiny_tokenizer(), word_tokenizer()
    text, begin, end = response_region(
        [{"role": "user", "content": "How much?"}], {"role": "assistant", "content": response}
    )
    a, b = (tokenize_with_offsets(tokenizer, text) for tokenizer in (ours, theirs))
    return ours, theirs, a, b, align_spans(a, b, begin, end)


def test_both_sides_of_a_span_say_the_same_text():
    ours, theirs, a, b, spans = spans_of(TEXT)
    for span in spans:
        left = ours.decode(a.ids[span.student : span.student_end])
        assert left == theirs.decode(b.ids[span.teacher : span.teacher_end])


def test_spans_cover_the_response_and_its_end_token_and_nothing_else():
    ours, _, a, _, spans = spans_of(TEXT)
    assert all(left.student_end == right.student for left, right in zip(spans, spans[1:], strict=False))
    covered = ours.decode(a.ids[spans[0].student : spans[-1].student_end], skip_special_tokens=False)
    assert covered == TEXT + "<|im_end|>"


def test_spans_are_as_short_as_the_coarser_tokenizer_allows():
    _, _, a, b, spans = spans_of(TEXT)
    assert any(span.student_end - span.student > 1 for span in spans)
    # every word piece but those inside a character is a span of its own
    assert len(spans) >= 0.8 * (spans[-1].teacher_end - spans[0].teacher)


def test_a_character_spread_over_tokens_has_no_cut_inside():
    assert cuts([(0, 1), (1, 2), (1, 2), (1, 2), (2, 4)]) == {0: 0, 1: 1, 2: 4, 4: 5}


def test_one_tokenizer_gives_one_span_per_token():
    text, begin, end = response_region([{"role": "user", "content": "a"}], {"role": "assistant", "content": "héllo"})
    tokens = tokenize_with_offsets(word_tokenizer(), text)
    spans = align_spans(tokens, tokens, begin, end)
    assert all((span.student, span.student_end) == (span.teacher, span.teacher_end) for span in spans)


def test_uld_ignores_which_token_is_which_and_fills_up_with_zeros():
    q, p = torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[0.2, 0.1, 0.7, 0.0, 0.0]])
    assert uld(q, p).item() == pytest.approx(0.0, abs=1e-7)
    assert uld(q, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.6)


def test_gold_with_every_token_twinned_is_the_divergence():
    q, p = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.5]])
    twins = Twins(torch.tensor([0, 1, 2]), torch.tensor([2, 1, 0]))
    assert gold(q, p, twins, kind="forward_kl", mixture=0.5).item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_gold_passes_gradcheck(kind):
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    p = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    twins = Twins(torch.tensor([0, 3, 4]), torch.tensor([1, 0, 4]))
    assert torch.autograd.gradcheck(lambda z: gold(z.softmax(-1), p, twins, kind=kind, mixture=0.3), (logits,))


def test_twins_decode_to_the_same_text():
    ours, theirs = tiny_tokenizer(), word_tokenizer()
    twins = find_twins(ours, theirs)
    texts = [(ours.decode([a]), theirs.decode([b])) for a, b in zip(*(part.tolist() for part in twins), strict=True)]
    assert len(texts) >= 128
    assert all(left == right for left, right in texts)
    assert "<|im_end|>" in {left for left, _ in texts}
    assert len(set(twins.student_M.tolist())) == len(twins.student_M)
    assert len(FIRST) + len(LAST) < len(ours)


def test_the_twin_of_a_character_is_the_token_in_use_and_not_its_fallback_byte():
    backend = Tokenizer(models.BPE(vocab={"<0x21>": 0, "<0x41>": 1, "!": 2}, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    student = PreTrainedTokenizerFast(tokenizer_object=backend)
    twins = find_twins(student, tiny_tokenizer())
    # "A" has no other token than its byte
    texts = dict(zip(twins.student_M.tolist(), (tiny_tokenizer().decode([b]) for b in twins.teacher_M), strict=True))
    assert texts == {2: "!", 1: "A"}
