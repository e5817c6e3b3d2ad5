"""The short convolution by hand, its two forms against each other and against torch's own convolution."""

import pytest
import torch

from retrograde.layers.short_convolution import convolved, filter_at_start, short_convolution, window_after

pytestmark = pytest.mark.usefixtures("float64")


def test_three_inputs_by_hand() -> None:
    """Taps 100, 10, 1 with the present's last; before the inputs 1, 2, 3 stood 7, 8, 9, of which 7 is out of sight."""
    taps, window = torch.tensor([[100.0, 10.0, 1.0]]), torch.tensor([[[7.0, 8.0, 9.0]]])
    inputs = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)
    assert short_convolution(inputs, window, taps).flatten().tolist() == [891, 912, 123]
    window = window_after(window, inputs[:, 0])
    assert window.flatten().tolist() == [8, 9, 1]
    assert convolved(window, taps).item() == 891


@pytest.mark.parametrize("length", [1, 2, 11])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_all_times_at_once_are_the_steps_and_torchs_convolution(width: int, length: int) -> None:
    """In values and gradients, also where the inputs are fewer than the taps."""
    inputs, window, taps = torch.randn(2, length, 3), torch.randn(2, 3, width), torch.randn(3, width)
    leaves = [part.requires_grad_() for part in (inputs, window, taps)]
    made = short_convolution(inputs, window, taps)
    stepped, now = [], window
    for x in inputs.unbind(1):
        now = window_after(now, x)
        stepped.append(convolved(now, taps))
    known = torch.cat([window[..., 1:], inputs.mT], -1)
    theirs = torch.nn.functional.conv1d(known, taps.unsqueeze(1), groups=3).mT
    direction = torch.randn_like(made)
    ours = torch.autograd.grad((made * direction).sum(), leaves)
    for form in (torch.stack(stepped, 1), theirs):
        torch.testing.assert_close(made, form, rtol=0, atol=1e-12)
        others = torch.autograd.grad((form * direction).sum(), leaves)
        for one, other in zip(ours, others, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_step_takes_one_filter_for_each_seed() -> None:
    windows, taps = torch.randn(2, 5, 3, 4), torch.randn(2, 3, 4)
    made = convolved(windows, taps)
    for seed in range(2):
        torch.testing.assert_close(made[seed], convolved(windows[seed], taps[seed]))


def test_a_filter_starts_as_torchs_convolution_of_each_channel() -> None:
    ours = filter_at_start(4000, 3)
    theirs = torch.nn.Conv1d(4000, 4000, 3, groups=4000).weight.squeeze(1)
    assert ours.shape == theirs.shape
    for quantile in (0.0, 0.25, 0.5, 0.75, 1.0):
        assert ours.quantile(quantile).item() == pytest.approx(theirs.quantile(quantile).item(), abs=0.02)
