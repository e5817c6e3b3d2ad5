r"""Sums of exponentials kept as a mantissa and an exponent, a state of two parts whose product is what is meant.

    m_t = max(log f_t + m_{t-1}, log i_t)
    s_t = e^{log f_t + m_{t-1} - m_t} s_{t-1} + e^{log i_t - m_t} v_t        e^{m_t} s_t is the sum

so that no positive number is exponentiated. Before the first time the sum is one of nothing and m so low that e^m is 0:
begun with m = 0 instead, a first input with log i_0 far below log f_0 would add e^{log i_0 - log f_0}, which may be no
number of the format, and a mean of such sums would be 0/0.

With 8 bits to a number m would swallow log f, and nothing ever fade: both parts stay in float32 at least.
"""

from collections.abc import Sequence

import torch

from retrograde.core.records import State

NOTHING = -1e30
"""The exponent of a sum of nothing: e to it is 0 in every format, and it is finite in all but float16."""


def with_sums_of_nothing(state: State, exponent: str, sums: Sequence[str]) -> State:
    """``state`` with the sums named and their exponent in float32 at least, the exponent that of sums of nothing."""
    precise = {name: state[name].to(torch.promote_types(state[name].dtype, torch.float32)) for name in sums}
    low = state[exponent].to(torch.promote_types(state[exponent].dtype, torch.float32))
    return {**state, **precise, exponent: torch.full_like(low, NOTHING)}
