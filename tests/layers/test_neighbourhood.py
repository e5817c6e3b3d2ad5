"""Neighbours by hand, and negative sampling by its own equation and its optimum."""

import pytest
import torch

from retrograde.layers.neighbourhood import Noise, mean_over, neighbours

pytestmark = pytest.mark.usefixtures("float64")


def test_neighbours_by_hand() -> None:
    made = neighbours(torch.tensor([4, 2]), 4, 1)
    assert made[0].int().tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert made[1, :2].int().tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]


def test_a_window_of_its_own_may_stand_on_either_axis() -> None:
    reach = torch.tensor([[1, 2, 1]])
    lengths = torch.tensor([3])
    assert neighbours(lengths, 3, reach.unsqueeze(1))[0].int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    reach = torch.tensor([[2, 1, 1]])
    assert neighbours(lengths, 3, reach.unsqueeze(1))[0].int().tolist() == [[0, 1, 0], [1, 0, 1], [1, 1, 0]]
    assert neighbours(lengths, 3, reach.unsqueeze(2))[0].int().tolist() == [[0, 1, 1], [1, 0, 1], [0, 1, 0]]


def test_the_mean_of_no_neighbours_is_zero() -> None:
    values = torch.tensor([[[6.0], [2.0], [4.0]]])
    made = mean_over(neighbours(torch.tensor([3]), 3, 2), values)
    assert made.flatten().tolist() == [3.0, 5.0, 4.0]
    assert mean_over(neighbours(torch.tensor([1]), 3, 2), values)[0, 0].item() == 0.0


def test_noise_has_the_counts_power_of_three_quarters() -> None:
    noise = Noise((16, 81, 0, 1), draws=3)
    torch.testing.assert_close(noise.shares, torch.tensor([8.0, 27.0, 1.0, 1.0]) / 37)
    drawn = noise.drawn(4000, 5)
    assert drawn.shape == (4000, 5, 3)
    share = torch.bincount(drawn.flatten(), minlength=4) / drawn.numel()
    error = (noise.shares * (1 - noise.shares) / drawn.numel()).sqrt()
    assert ((share - noise.shares).abs() <= 4 * error).all()


def test_losses_equal_equation_4_with_the_same_draws_in_values_and_gradients() -> None:
    noise = Noise((5, 2, 9, 1, 4), draws=3)
    vectors = torch.randn(5, 4, requires_grad=True)
    context = torch.randn(2, 6, 4, requires_grad=True)
    word = torch.randint(5, (2, 6))
    torch.manual_seed(3)
    losses = noise.losses(context, word, vectors)
    torch.manual_seed(3)
    drawn = noise.drawn(2, 6)
    expected = []
    for sample in range(2):
        for time in range(6):
            right = vectors[word[sample, time]].dot(context[sample, time])
            loss = torch.log(1 + torch.exp(-right))
            for other in drawn[sample, time]:
                loss = loss + torch.log(1 + torch.exp(vectors[other].dot(context[sample, time])))
            expected.append(loss)
    reference = torch.stack(expected).view(2, 6)
    torch.testing.assert_close(losses, reference, rtol=1e-12, atol=1e-12)
    weights = torch.randn(2, 6)
    ours, theirs = (
        torch.autograd.grad((weights * made).sum(), [context, vectors], retain_graph=True)
        for made in (losses, reference)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_no_place_has_no_losses() -> None:
    noise = Noise((1, 2), draws=2)
    assert noise.losses(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), torch.zeros(2, 3)).shape == (0,)


def test_at_the_optimum_the_scores_with_the_noise_s_logarithm_give_the_words_probabilities() -> None:
    """The expected loss -Σ p log σ(s) - k Σ q log σ(-s) is stationary where softmax(s + log q) = p, for every k."""
    probability = torch.tensor([0.4, 0.1, 0.3, 0.2])
    for draws in (1, 5, 20):
        shares = Noise((3, 10, 1, 6), draws).shares
        scores = (torch.log(probability) - torch.log(draws * shares)).requires_grad_()
        sigmoid = torch.nn.functional.logsigmoid
        expected = -(probability * sigmoid(scores)).sum() - draws * (shares * sigmoid(-scores)).sum()
        (gradient,) = torch.autograd.grad(expected, scores)
        assert gradient.abs().max() < 1e-15
        torch.testing.assert_close(torch.softmax(scores + shares.log(), 0), probability)
