"""Attention before the cell against a loop over samples and times, written from the equations."""

from functools import partial

import pytest
import torch
from torch import Tensor

from encoder_decoders import gru_step, learned
from retrograde.core.records import Batch
from retrograde.core.snapshot import gradient_flow
from retrograde.layers.encoder_decoder import EncoderDecoder
from retrograde.layers.scores.additive import Additive
from retrograde.layers.windows.global_ import Global
from retrograde.layers.windows.hard import Hard
from retrograde.layers.windows.local_m import LocalM
from retrograde.layers.windows.local_p import LocalP
from retrograde.models.gru import gru
from retrograde.models.seq2seq_bahdanau import seq2seq_bahdanau
from retrograde.tasks.reverse import Reverse

pytestmark = pytest.mark.usefixtures("float64")

TASK = Reverse(symbols=3, shortest=2, longest=4)
READER = partial(gru, hidden=5, bidirectional=True)


def model(task: Reverse = TASK, window=Global) -> EncoderDecoder:
    return seq2seq_bahdanau(task, READER, partial(gru, hidden=6), Additive, window).eval()


def batch() -> Batch:
    return TASK.sample(4, torch.Generator().manual_seed(0))


def by_hand(made: EncoderDecoder, given: Batch, sample: int) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """One sample's logits and attention weights; the decoder's states and the forward encoder's, as live nodes."""
    ahead, back = (gru_step(placed.recurrence.fused) for placed in made.encoder.placed[0])
    write = gru_step(made.decoder.placed[0][0].recurrence.fused)
    source = [torch.eye(3)[token] for token in given.inputs[sample, : given.lengths[sample]]]
    forward, backward = [torch.zeros(5, requires_grad=True)], [torch.zeros(5)]
    for x in source:
        forward.append(ahead(x, {"hidden": forward[-1]})["hidden"])
    for x in reversed(source):
        backward.append(back(x, {"hidden": backward[-1]})["hidden"])
    memory = [torch.cat(pair) for pair in zip(forward[1:], reversed(backward[1:]), strict=True)]
    begin = made.begins["decoder0_forward_hidden"]
    last = torch.cat([forward[-1], backward[-1]])
    hidden = [torch.tanh(begin.weight @ last + begin.bias)]
    score = made.attention.score
    logits, weights = [], []
    for token in given.decoder_inputs[sample, : given.target_lengths[sample]]:
        asked = score.query.weight @ hidden[-1]
        energy = [score.weigh.weight[0] @ torch.tanh(asked + score.memory.weight @ slot) for slot in memory]
        share = torch.softmax(torch.stack(energy), 0)
        context = sum(a * slot for a, slot in zip(share, memory, strict=True))
        hidden.append(write(torch.cat([torch.eye(5)[token], context]), {"hidden": hidden[-1]})["hidden"])
        logits.append(made.readout.weight @ hidden[-1] + made.readout.bias)
        weights.append(share)
    return torch.stack(logits), torch.stack(weights), hidden, forward


def test_outputs_maps_and_totals_on_both_sides_are_those_of_live_nodes() -> None:
    made, given = model(), batch()
    outputs, flow = made(given), gradient_flow(made, TASK, given)
    for sample, length in enumerate(given.target_lengths.tolist()):
        logits, weights, hidden, forward = by_hand(made, given, sample)
        torch.testing.assert_close(outputs[sample, :length], logits, rtol=0, atol=1e-12)
        shown = flow.trace.maps["cross0"][sample, 0, :length]
        torch.testing.assert_close(shown[:, : given.lengths[sample]], weights, rtol=0, atol=1e-12)
        assert not shown[:, given.lengths[sample] :].any()
        loss = torch.nn.functional.cross_entropy(logits, given.targets[sample, :length])
        for key, nodes in (("decoder0.forward.hidden", hidden), ("encoder0.forward.hidden", forward)):
            expected = torch.stack(torch.autograd.grad(loss, nodes, retain_graph=True))
            total = flow.gradients[key].total.value()[sample, : len(nodes)]
            torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-13)


def test_attention_carries_the_gradient_of_a_target_to_its_source_past_the_recurrence() -> None:
    """With the encoder's recurrence cut, a source position is felt by attention alone: as much as it is looked at."""
    made, given = model(), batch()
    assert {"decoder0.forward.hidden", "cross0"} == made.trace(given).target_side
    with torch.no_grad():
        for placed in made.encoder.placed[0]:
            fused = placed.recurrence.fused
            fused.weight_hh_l0.zero_()
            fused.bias_ih_l0[5:10] = -1e3  # the update gate shut: each state is its own input's alone
        for linear in made.begins.values():
            linear.weight.zero_()
    flow = gradient_flow(made, TASK, given)
    direct = flow.gradients["encoder0.forward.hidden"].direct.value()
    total = flow.gradients["encoder0.forward.hidden"].total.value()
    torch.testing.assert_close(total, direct, rtol=0, atol=1e-15)
    assert total[:, 1].any()


@pytest.mark.parametrize("window", [Global, partial(LocalM, reach=1), partial(LocalP, reach=1)])
def test_every_window_stands_inside_the_step(window) -> None:
    made, given = model(window=window), batch()
    torch.testing.assert_close(made.trace(given).outputs, made(given), rtol=0, atol=1e-12)
    answers = made.answers(given, made(given))
    assert answers.shape == made(given).shape


def test_hard_attention_is_refused_where_it_would_draw_inside_a_step() -> None:
    with pytest.raises(ValueError, match=r"window=hard draws .* seq2seq_luong"):
        model(window=Hard)


def test_it_learns_to_reverse_strings_of_five() -> None:
    torch.set_default_dtype(torch.float32)
    task = Reverse(symbols=4, shortest=5, longest=5)
    made = seq2seq_bahdanau(
        task, partial(gru, hidden=32, bidirectional=True), partial(gru, hidden=32), Additive, Global
    )
    assert learned(made, task, steps=500) >= 0.99
