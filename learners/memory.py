"""A controller with an external memory that is written where it was least used. Santoro et al. 2016, LRUA."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Of B sequences, after a step; R read heads, N slots of M values, H units."""

    hidden: Tensor
    """[B, H]"""
    cell: Tensor
    """[B, H]"""
    memory: Tensor
    """[B, N, M]"""
    read: Tensor
    """[B, R, M] what the heads read."""
    read_weights: Tensor
    """[B, R, N]"""
    usage: Tensor
    """[B, N]"""

    def expanded(self, num: int) -> State:
        """Each sequence `num` times, one after the other."""
        return State(*(getattr(self, name).repeat_interleave(num, 0) for name in self.__slots__))


class LeastRecentlyUsed(nn.Module):
    """One step: control, write, read. [B, I] inputs -> [B, H + R M] outputs.

    A head writes where it read last, or into the slots that are used least; how much of each is a gate's. The least used
    slot is erased before. Reading is by cosine, without sharpening. Which slots are least used carries no gradient.

    Args:
        inputs: I.
        units: H of the LSTM.
        slots: N.
        values: M.
        heads: R, each with a write head of its own.
        decay: of usage.
    """

    def __init__(
        self, inputs: int, *, units: int = 200, slots: int = 128, values: int = 40, heads: int = 4, decay: float = 0.95
    ) -> None:
        super().__init__()
        self.slots, self.values, self.heads, self.decay = slots, values, heads, decay
        self.controller = nn.LSTMCell(inputs + heads * values, units)
        self.key, self.add = nn.Linear(units, heads * values), nn.Linear(units, heads * values)
        self.gate = nn.Linear(units, heads)
        self.outputs = units + heads * values
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or "bias_" in name:
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter)

    def begin(self, num: int, like: Tensor) -> State:
        """The state before the first step of `num` sequences: memory almost zero, slot 0 read and used."""
        units = like.new_zeros(num, self.controller.hidden_size)
        first = F.one_hot(torch.zeros(num, dtype=torch.int64, device=like.device), self.slots).to(like.dtype)
        return State(
            hidden=units,
            cell=units,
            memory=like.new_full((num, self.slots, self.values), 1e-6),
            read=like.new_zeros(num, self.heads, self.values),
            read_weights=first.unsqueeze(1).expand(-1, self.heads, -1),
            usage=first,
        )

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs and the state after the step."""
        outputs, after = self.read(inputs.unsqueeze(1), state)
        return outputs.squeeze(1), after

    def read(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs [B, L, ...] of a sequence [B, L, I], step by step, and the state after it.

        What is the same in all steps is done once: the part of the controller that sees inputs only, and putting the
        matrices together that meet the same vector. A third of the time of a step of training is saved by it.
        """
        cell, size = self.controller, inputs.shape[-1]
        seen = F.linear(inputs, cell.weight_ih[:, :size], cell.bias_ih + cell.bias_hh)
        recurrent = torch.cat([cell.weight_ih[:, size:], cell.weight_hh], dim=1)
        parts = self.key, self.add, self.gate
        matrix, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        outputs = []
        for now in seen.unbind(1):
            before = torch.cat([state.read.flatten(1), state.hidden], dim=-1)
            hidden, cell_after = _lstm(torch.addmm(now, before, recurrent.t()), state.cell)
            state = self._turned(F.linear(hidden, matrix, bias), hidden, cell_after, state)
            outputs.append(torch.cat([hidden, state.read.flatten(1)], dim=-1))
        return torch.stack(outputs, dim=1) if outputs else inputs.new_zeros(len(inputs), 0, self.outputs), state

    def _turned(self, shown: Tensor, hidden: Tensor, cell: Tensor, state: State) -> State:
        """The state after the controller has shown keys, what is to be added, and gates, [B, 2 R M + R]."""
        shape = (len(shown), 2 * self.heads, self.values)
        keys, added = torch.tanh(shown[:, : -self.heads]).view(shape).chunk(2, 1)
        gate = torch.sigmoid(shown[:, -self.heads :]).unsqueeze(-1).to(state.read_weights.dtype)
        # Stable: of slots that are used equally the first come first, and the heads get different ones.
        least = state.usage.detach().argsort(dim=-1, stable=True)[:, : self.heads]
        unused = torch.zeros_like(state.read_weights).scatter_(-1, least.unsqueeze(-1), 1.0)  # [B, R, N]
        write = torch.lerp(unused, state.read_weights, gate)
        memory = torch.baddbmm(state.memory * (1 - unused[:, 0].unsqueeze(-1)), write.transpose(1, 2), added)
        weights = _cosines(keys, memory).softmax(-1)
        usage = torch.add((weights + write).sum(1), state.usage, alpha=self.decay)
        return State(hidden=hidden, cell=cell, memory=memory, read=weights @ memory, read_weights=weights, usage=usage)


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden state and cell after a step whose gates [B, 4 H] are in torch's order: input, forget, candidate, output."""
    i, f, candidate, o = gates.chunk(4, -1)
    after = torch.addcmul(torch.sigmoid(f) * cell, torch.sigmoid(i), torch.tanh(candidate))
    return torch.sigmoid(o) * torch.tanh(after), after


def _cosines(keys: Tensor, memory: Tensor) -> Tensor:
    """[B, R, M], [B, N, M] -> [B, R, N]; a small number within the root keeps slots of zeros from dividing by it."""
    sizes = (keys * keys).sum(-1).unsqueeze(-1) * (memory * memory).sum(-1).unsqueeze(1)
    return keys @ memory.transpose(1, 2) * torch.rsqrt(sizes + 1e-6)
