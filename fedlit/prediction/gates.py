"""Gates: how much of each member's kernel goes into a layer, for each picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Form:
    """How gates make a kernel of the experts.

    Args:
        squash: what becomes of the last layer of a gate network [B, E].
        from_global: kernel = W_global + sum_m g_m (W_m - W_global), else sum_e g_e W_e with the global kernel last.
        starts_at_zero: the last layer of a gate network starts at zero, and what it says is divided by the square root
            of its width, so that a step of Adam opens the gates of wide layers little more than those of narrow ones.
            Else it starts as torch has it.
    """

    squash: Callable[[Tensor], Tensor]
    from_global: bool
    starts_at_zero: bool


FORMS: Mapping[str, Form] = {
    "difference": Form(torch.tanh, from_global=True, starts_at_zero=True),
    "softmax": Form(lambda scores: scores.softmax(-1), from_global=False, starts_at_zero=True),
    "sigmoid": Form(torch.sigmoid, from_global=False, starts_at_zero=False),
}


class Gate(nn.Module):
    """pooled features [B, C] -> Linear(C, 2 C) -> dropout -> Linear(2 C, E) -> squashed. Jiang et al., TMI 2023.

    Its first values are drawn from `seed`; those of the last layer are the same for every member where it starts at
    zero, so that the order of members means nothing. As published they are drawn, each member's by its place.
    """

    def __init__(self, width: int, num_experts: int, form: Form, *, seed: int, dropout: float = 0.2):
        super().__init__()
        self.inner = nn.utils.skip_init(nn.Linear, width, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.utils.skip_init(nn.Linear, 2 * width, num_experts)
        self.form = form
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (self.inner, self.outer):
                bound = 0.0 if layer is self.outer and form.starts_at_zero else layer.in_features**-0.5
                for value in layer.parameters():
                    value.uniform_(-1, 1, generator=generator).mul_(bound)

    def forward(self, pooled: Tensor) -> Tensor:
        scores = self.outer(self.dropout(self.inner(pooled)))
        return self.form.squash(scores / self.outer.in_features**0.5 if self.form.starts_at_zero else scores)


def stacked(of_global: Tensor, of_members: Sequence[Tensor], form: Form) -> Tensor:
    """The experts as rows [R, elements]: the global one and differences from it, or the members' and the global one."""
    last = of_global.reshape(1, -1)
    rows = torch.stack([value.to(of_global).flatten() for value in of_members])
    return torch.cat([last, rows - last]) if form.from_global else torch.cat([rows, last])


def shares(gates: Tensor, form: Form) -> Tensor:
    """How much of each of the `stacked` rows [B, R] goes into a kernel, by gates [B, E]."""
    return torch.cat([gates.new_ones(len(gates), 1), gates], 1) if form.from_global else gates


def mixed(of_rows: Tensor, stack: Tensor) -> Tensor:
    """The sum of rows [R, elements] by shares [B, R], in the precision of the rows, whatever autocast would take."""
    with torch.autocast(stack.device.type, enabled=False):
        return of_rows.to(stack.dtype) @ stack
