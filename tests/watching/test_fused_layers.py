"""``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` inside somebody's model, against loops of plain autograd, sample by sample."""

import copy
import io
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import retrograde
from watched import check, check_undisturbed, live, norms, watched

pytestmark = pytest.mark.usefixtures("float64")

KINDS = {
    "tanh": nn.RNN,
    "relu": partial(nn.RNN, nonlinearity="relu"),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "projected": partial(nn.LSTM, proj_size=2),
}


def loss_of(outputs: list[Tensor], ends: list[Tensor]) -> Tensor:
    """Every output with a weight of its own, and the last states: the mean over samples, as a user has it."""
    each = [((out * torch.arange(1.0, 1 + out.numel()).view_as(out).cos()).sin().sum()) for out in outputs]
    return torch.stack(each).mean() + torch.stack([end.pow(2).sum() for end in ends]).mean()


def direct_norms(module: nn.RNNBase, samples: list[Tensor]) -> dict[tuple[str, int, int], float]:
    found = {}
    for layer in range(module.num_layers):
        for direction in ("forward", "backward") if module.bidirectional else ("forward",):
            name = f"{layer}.{direction}"
            outputs, ends, states = live(module, samples, cut=name)
            found |= norms(loss_of(outputs, ends), {key: own for key, own in states.items() if key.startswith(name)})
    return found


def named(expected: dict[tuple[str, int, int], float], layer: str) -> dict[tuple[str, int, int], float]:
    return {(f"{layer}.{place}", b, t): value for (place, b, t), value in expected.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_totals_and_direct_parts_are_those_of_live_nodes(kind: str, batch_first: bool) -> None:
    module = KINDS[kind](3, 4, num_layers=2, bidirectional=True, batch_first=batch_first)
    model = nn.ModuleDict({"rnn": module})
    x = torch.randn(3, 5, 3)
    outputs, ends, states = live(module, list(x))

    def loss() -> Tensor:
        out, end = module(x if batch_first else x.transpose(0, 1))
        end = end[0] if isinstance(end, tuple) else end
        return loss_of(list(out if batch_first else out.transpose(0, 1)), list(end.transpose(0, 1)))

    frame, _ = watched(model, loss)
    check(frame, "total", named(norms(loss_of(outputs, ends), states), "rnn"))
    check(frame, "direct", named(direct_norms(module, list(x)), "rnn"))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_of_unequal_length_are_those_of_live_nodes(kind: str) -> None:
    module = KINDS[kind](3, 4, num_layers=2, bidirectional=True, batch_first=True)
    model = nn.ModuleDict({"rnn": module})
    lengths = [2, 5, 1, 4]
    samples = [torch.randn(length, 3) for length in lengths]
    outputs, ends, states = live(module, samples)

    def loss() -> Tensor:
        padded = nn.utils.rnn.pad_sequence(samples, batch_first=True)
        packed = pack_padded_sequence(padded, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        made, end = module(packed)
        end = end[0] if isinstance(end, tuple) else end
        out, _ = pad_packed_sequence(made, batch_first=True)
        return loss_of([one[:length] for one, length in zip(out, lengths, strict=True)], list(end.transpose(0, 1)))

    frame, _ = watched(model, loss)
    expected = norms(loss_of(outputs, ends), states)
    ours = {key: value for key, value in expected.items() if "backward" not in key[0] or key[2] < lengths[key[1]]}
    check(frame, "total", named(ours, "rnn"))
    forward = frame[frame.layer == "rnn.0.forward"]
    assert forward[forward["sample"] == 2].time.max() == 0  # no row for what is padding


def test_a_total_is_the_central_difference_of_the_loss_over_a_changed_state() -> None:
    """By the state that the layer is given, to which the same kernel answers."""
    module = nn.LSTM(3, 4, num_layers=2)
    x, h, c = torch.randn(6, 2, 3), torch.randn(2, 2, 4), torch.randn(2, 2, 4)

    def loss(h: Tensor, c: Tensor) -> Tensor:
        return module(x, (h, c))[0][-1].sin().sum()

    frame, _ = watched(nn.ModuleDict({"rnn": module}), lambda: loss(h, c))
    for component, at in (("hidden", 0), ("cell", 1)):
        for layer in range(2):
            rows = frame[(frame.layer == f"rnn.{layer}.forward") & (frame.component == component) & (frame.time == -1)]
            for sample in range(2):
                slopes = []
                for unit in range(4):
                    nudge = torch.zeros(2, 2, 4)
                    nudge[layer, sample, unit] = 1e-5
                    up, down = (loss(*(s + sign * nudge * (k == at) for k, s in enumerate((h, c)))) for sign in (1, -1))
                    slopes.append((up - down).item() / 2e-5)
                assert 10 ** rows.total[rows["sample"] == sample].item() == pytest.approx(
                    torch.tensor(slopes).norm().item(), rel=1e-8
                )


def classifier(kind: type[nn.RNNBase] = nn.LSTM) -> nn.Module:
    """A recurrent classifier as a tutorial has it."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 3)
            self.rnn = kind(3, 4, num_layers=2, batch_first=True, dropout=0.3)
            self.head = nn.Linear(4, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            out, _ = self.rnn(self.embedding(tokens))
            return self.head(out[:, -1])

    return Classifier()


def test_outputs_gradients_and_random_numbers_are_the_same_with_a_watch() -> None:
    model, tokens = classifier(), torch.randint(7, (5, 6))
    check_undisturbed(model, lambda: model(tokens), tolerance=1e-12)


def test_dropout_of_packed_samples_of_one_length_draws_what_it_draws_without_a_watch() -> None:
    module = nn.GRU(3, 4, num_layers=2, dropout=0.5)
    packed = pack_padded_sequence(torch.randn(5, 2, 3), torch.tensor([5, 5]))
    check_undisturbed(module, lambda: module(packed)[0].data, tolerance=1e-12)


def test_a_layer_called_twice_is_told_of_call_by_call() -> None:
    module = nn.GRU(3, 4, batch_first=True)
    x, y = torch.randn(2, 5, 3), torch.randn(2, 3, 3)
    frame, _ = watched(nn.ModuleDict({"rnn": module}), lambda: module(x)[0].sum() + 3 * module(y)[0].sum())
    alone, _ = watched(nn.ModuleDict({"rnn": module}), lambda: 3 * module(y)[0].sum())
    assert frame[frame.call == 0].time.max() == 4
    second = frame[frame.call == 1]
    assert list(second.total) == list(alone.total) and list(second.time) == list(alone.time)


def test_hooks_of_the_user_run_as_ever() -> None:
    model, tokens, seen = classifier(), torch.randint(7, (2, 3)), []
    model.rnn.register_forward_hook(lambda module, given, made: seen.append(type(made)))
    model.rnn.register_full_backward_hook(lambda module, given, made: seen.append("backward"))
    with retrograde.watch(model):
        model(tokens).sum().backward()
    assert seen == [tuple, "backward"]


def test_a_frozen_layer_is_served() -> None:
    module = nn.LSTM(3, 4, batch_first=True)
    x = torch.randn(2, 5, 3)
    learnt, _ = watched(nn.ModuleDict({"rnn": module}), lambda: module(x)[0].pow(2).sum())
    module.requires_grad_(False)
    frozen, _ = watched(nn.ModuleDict({"rnn": module}), lambda: module(x)[0].pow(2).sum())
    assert list(frozen.total) == list(learnt.total)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_is_computed_again_for_its_way_back_is_served(kind: str) -> None:
    module, x = KINDS[kind](3, 4), torch.randn(5, 2, 3)
    model = nn.ModuleDict({"rnn": module})
    kept, _ = watched(model, lambda: module(x)[0].pow(2).sum())
    again, _ = watched(model, lambda: checkpoint(lambda given: module(given)[0], x, use_reentrant=False).pow(2).sum())
    assert list(again.total) == list(kept.total)
    check_undisturbed(model, lambda: checkpoint(lambda given: module(given)[0], x, use_reentrant=False), 1e-12)


@pytest.mark.parametrize("shape", [(1, 5, 3), (4, 1, 3)])
def test_a_batch_of_one_and_a_single_time_are_served(shape: tuple[int, ...]) -> None:
    module = nn.GRU(3, 4, batch_first=True)
    x = torch.randn(shape)
    outputs, _, states = live(module, list(x))
    frame, _ = watched(nn.ModuleDict({"rnn": module}), lambda: module(x)[0].sin().sum())
    assert frame["sample"].nunique() == shape[0] and frame.time.max() == shape[1] - 1
    check(frame, "total", named(norms(sum(out.sin().sum() for out in outputs), states), "rnn"))  # type: ignore[arg-type]  # a tensor


def test_a_sequence_without_a_batch_axis_is_one_sample() -> None:
    module = nn.LSTM(3, 4)
    x = torch.randn(5, 3)
    outputs, _, states = live(module, [x])
    frame, _ = watched(nn.ModuleDict({"rnn": module}), lambda: module(x)[0].sin().sum())
    check(frame, "total", named(norms(outputs[0].sin().sum(), states), "rnn"))


def test_a_layer_that_computes_something_else_is_named() -> None:
    class Doubled(nn.LSTM):
        def forward(self, *args: object) -> object:
            out, state = super().forward(*args)  # type: ignore[arg-type]  # as they came
            return 2 * out, state

    model = nn.ModuleDict({"rnn": Doubled(3, 4, batch_first=True)})
    with pytest.warns(UserWarning, match="leaves out rnn: it computes something else than nn.LSTM"):
        frame, flow = watched(model, lambda: model["rnn"](torch.randn(2, 5, 3))[0].sum())
    assert set(frame.component) == {"output"}  # what is measured of it is what autograd knows
    assert "rnn" in flow.left_out


def test_a_layer_that_computes_with_other_weights_than_it_shows_is_named() -> None:
    """A parametrisation changes what the attributes say; the kernel has the weights as they were."""
    module = nn.utils.parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    with pytest.warns(UserWarning, match="leaves out rnn: it computes with other weights than those that it shows"):
        watched(nn.ModuleDict({"rnn": module}), lambda: module(torch.randn(5, 2, 3))[0].sum())


def test_copies_made_inside_the_block_are_not_watched_and_compute_with_their_own_weights() -> None:
    model, tokens = classifier().eval(), torch.randint(7, (2, 3))
    with retrograde.watch(model) as flow:
        copied = copy.deepcopy(model)
        stored = io.BytesIO()
        torch.save(model.rnn, stored)
        nn.init.zeros_(model.rnn.weight_hh_l0)
        nn.init.zeros_(model.rnn.weight_ih_l0)
        assert not torch.allclose(copied(tokens), model(tokens))
        copied(tokens).sum().backward()
        with pytest.raises(RuntimeError, match="no gradient has come to the model"):
            flow.frame()
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False)
    x = torch.randn(2, 3, 3)
    assert torch.equal(loaded(x)[0], copied.rnn(x)[0])


def test_a_backward_pass_that_is_to_be_differentiated_is_refused_in_one_line() -> None:
    module, x = nn.GRU(3, 4), torch.randn(5, 2, 3, requires_grad=True)
    with retrograde.watch(nn.ModuleDict({"rnn": module})), pytest.raises(ValueError, match="create_graph") as refused:
        torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
    assert "\n" not in str(refused.value)


def test_half_precision_agrees_with_single_to_its_rounding() -> None:
    module = nn.LSTM(3, 4, batch_first=True, dtype=torch.float32)
    x = torch.randn(2, 5, 3, dtype=torch.float32)
    single, _ = watched(nn.ModuleDict({"rnn": module}), lambda: module(x)[0].pow(2).sum())
    for half in (torch.bfloat16, torch.float16):
        lower = copy.deepcopy(module).to(half)
        frame, _ = watched(
            nn.ModuleDict({"rnn": lower}), lambda lower=lower, half=half: lower(x.to(half))[0].pow(2).sum()
        )  # type: ignore[misc]  # bound now
        assert (frame.total - single.total).abs().max() < 0.05
    with torch.autocast("cpu", torch.bfloat16):
        frame, _ = watched(nn.ModuleDict({"rnn": module}), lambda: module(x)[0].float().pow(2).sum())
    assert (frame.total - single.total).abs().max() < 0.05


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN, nn.LSTM])
@pytest.mark.parametrize("batch_first", [True, False])
def test_outputs_that_a_model_changes_in_place_are_served(kind: type[nn.RNNBase], batch_first: bool) -> None:
    """Of an LSTM in float32 torch itself refuses it."""
    model, x = nn.ModuleDict({"rnn": kind(3, 4, batch_first=batch_first)}), torch.randn(5, 5, 3)
    check_undisturbed(model, lambda: torch.relu_(model["rnn"](x)[0]), tolerance=1e-14)
    apart, _ = watched(model, lambda: torch.relu(model["rnn"](x)[0]).sum())
    in_place, _ = watched(model, lambda: torch.relu_(model["rnn"](x)[0]).sum())
    assert in_place.equals(apart)
