"""The encoder-decoder against a loop over samples and times, written from the equations with every state live."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from encoder_decoders import learned, lstm_step
from retrograde.core.contracts import END, START
from retrograde.core.records import Batch
from retrograde.core.snapshot import gradient_flow
from retrograde.layers.decoding import Writing
from retrograde.layers.encoder_decoder import EncoderDecoder
from retrograde.models.elman import elman
from retrograde.models.gru import gru
from retrograde.models.lru import lru
from retrograde.models.lstm import lstm
from retrograde.models.seq2seq import seq2seq
from retrograde.models.slstm import slstm
from retrograde.tasks.reverse import Reverse

pytestmark = pytest.mark.usefixtures("float64")

TASK = Reverse(symbols=3, shortest=2, longest=4)


def model() -> EncoderDecoder:
    return seq2seq(TASK, partial(lstm, hidden=5), partial(lstm, hidden=6)).eval()


def batch() -> Batch:
    return TASK.sample(4, torch.Generator().manual_seed(0))


def by_hand(made: EncoderDecoder, given: Batch, sample: int) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """One sample's logits, and its states in the order of time, the initial one first."""
    read, write = (lstm_step(stack.placed[0][0].recurrence.fused) for stack in (made.encoder, made.decoder))
    state = {name: torch.zeros(5, requires_grad=True) for name in ("hidden", "cell")}
    states: dict[str, list[Tensor]] = {f"encoder0.forward.{name}": [value] for name, value in state.items()}
    for token in given.inputs[sample, : given.lengths[sample]]:
        state = read(torch.eye(3)[token], state)
        for name, value in state.items():
            states[f"encoder0.forward.{name}"].append(value)
    last = state["hidden"]
    state = {}
    for name in ("hidden", "cell"):
        linear = made.begins[f"decoder0_forward_{name}"]
        state[name] = torch.tanh(linear.weight @ last + linear.bias)
        states[f"decoder0.forward.{name}"] = [state[name]]
    logits = []
    assert given.decoder_inputs is not None and given.target_lengths is not None
    for token in given.decoder_inputs[sample, : given.target_lengths[sample]]:
        state = write(torch.eye(5)[token], state)
        for name, value in state.items():
            states[f"decoder0.forward.{name}"].append(value)
        logits.append(made.readout.weight @ state["hidden"] + made.readout.bias)
    return torch.stack(logits), states


def test_outputs_and_totals_on_both_sides_are_those_of_live_nodes() -> None:
    made, given = model(), batch()
    outputs, flow = made(given), gradient_flow(made, TASK, given)
    assert given.target_lengths is not None
    for sample, length in enumerate(given.target_lengths.tolist()):
        logits, states = by_hand(made, given, sample)
        torch.testing.assert_close(outputs[sample, :length], logits, rtol=0, atol=1e-12)
        loss = torch.nn.functional.cross_entropy(logits, given.targets[sample, :length])
        assert set(states) == set(flow.gradients)
        for key, nodes in states.items():
            expected = torch.stack(torch.autograd.grad(loss, nodes, retain_graph=True))
            total = flow.gradients[key].total.value()[sample, : len(nodes)]
            torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-13)
            assert total[0].any(), f"nothing of the loss reaches the beginning of {key}"


def test_parameters_gradients_are_those_of_the_loop() -> None:
    made, given = model(), batch()
    assert given.target_lengths is not None
    losses = TASK.loss(made(given), given)[given.scored].sum()
    by_loop = sum(
        torch.nn.functional.cross_entropy(
            by_hand(made, given, sample)[0], given.targets[sample, :length], reduction="sum"
        )
        for sample, length in enumerate(given.target_lengths.tolist())
    )
    ours, theirs = (torch.autograd.grad(loss, list(made.parameters())) for loss in (losses, by_loop))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_answers_are_the_models_own_and_read_no_target() -> None:
    made, given = model(), batch()
    answers = made.answers(given, made(given))
    other = replace(given, targets=given.targets.flip(1), decoder_inputs=None)
    assert torch.equal(made.answers(other, answers), answers)
    forced = replace(
        given, decoder_inputs=torch.cat([torch.full((4, 1), START), answers.argmax(-1)[:, :-1]], 1)
    )  # told its own answers as the target, it says the same
    torch.testing.assert_close(made(forced), answers, rtol=0, atol=1e-12)


def test_beam_search_answers_in_whole_sequences() -> None:
    made, given = model(), batch()
    made.writing = Writing(decoding="beam", beams=5**5)
    widest = made.answers(given, made(given)).argmax(-1)
    assert given.target_lengths is not None
    for sample in range(4):
        tokens = widest[sample].tolist()
        cut = tokens.index(END) if END in tokens else len(tokens)
        assert tokens[cut:] == [END] * (len(tokens) - cut)


def test_forcing_at_zero_reads_nothing_but_its_own_answers() -> None:
    made, given = model(), batch()
    own = made.answers(given, made(given))
    made.train()
    made.writing = Writing(forcing=0.0)
    torch.testing.assert_close(made(given), own, rtol=0, atol=1e-12)
    made.writing = Writing(forcing=0.5)
    torch.manual_seed(0)
    tokens = made.writing.read(made, given, training=True)
    share = (tokens == given.decoder_inputs)[:, 1:].double().mean()
    assert 0.3 < share < 0.95
    made.eval()
    torch.testing.assert_close(made(given), model_like(made)(given))


def model_like(made: EncoderDecoder) -> EncoderDecoder:
    """The same weights with every token given."""
    other = model()
    other.load_state_dict(made.state_dict())
    return other


@pytest.mark.parametrize("encoder", [elman, lstm, gru])
@pytest.mark.parametrize("decoder", [elman, lstm, gru])
def test_any_cell_reads_for_any_cell(encoder, decoder) -> None:
    made = seq2seq(
        TASK, partial(encoder, hidden=4, layers=2, bidirectional=True), partial(decoder, hidden=7, layers=2)
    ).eval()
    given = batch()
    torch.testing.assert_close(made.trace(given).outputs, made(given), rtol=0, atol=1e-12)


def test_a_side_that_is_no_stack_of_recurrences_is_refused() -> None:
    with pytest.raises(ValueError, match="the encoder must be a stack of recurrences, such as lstm or gru; Residual"):
        seq2seq(TASK, partial(lru, hidden=4), partial(lstm, hidden=4))


def test_a_stabiliser_begins_as_it_does_by_itself() -> None:
    """What an encoder may set of an sLSTM is its hidden state; a normaliser below zero would turn the output's sign."""
    made, given = seq2seq(TASK, partial(lstm, hidden=4), partial(slstm, hidden=4, heads=2)).eval(), batch()
    assert set(made.begins) == {"decoder0_forward_hidden"}
    torch.testing.assert_close(made.trace(given).outputs, made(given), rtol=0, atol=1e-12)


def test_a_decoder_that_reads_backward_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decoder\.bidirectional must be false"):
        seq2seq(TASK, partial(lstm, hidden=4), partial(lstm, hidden=4, bidirectional=True))


def test_it_learns_to_reverse_strings_of_five() -> None:
    torch.set_default_dtype(torch.float32)
    task = Reverse(symbols=4, shortest=5, longest=5)
    assert learned(seq2seq(task, partial(lstm, hidden=32), partial(lstm, hidden=32)), task, steps=800) >= 0.99
