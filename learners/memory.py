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
        shape = (len(inputs), self.heads, -1)
        seen = torch.cat([inputs, state.read.flatten(1)], dim=-1)
        hidden, cell = self.controller(seen, (state.hidden, state.cell))
        keys = torch.tanh(self.key(hidden)).view(shape)
        added = torch.tanh(self.add(hidden)).view(shape)
        gate = torch.sigmoid(self.gate(hidden)).unsqueeze(-1)
        # Stable: of slots that are used equally the first come first, and the heads get different ones.
        least = state.usage.detach().argsort(dim=-1, stable=True)[:, : self.heads]
        unused = F.one_hot(least, self.slots).to(inputs.dtype)  # [B, R, N]
        write = gate * state.read_weights + (1 - gate) * unused
        memory = state.memory * (1 - unused[:, :1].transpose(1, 2)) + write.transpose(1, 2) @ added
        weights = _cosines(keys, memory).softmax(-1)
        read = weights @ memory
        usage = self.decay * state.usage + (weights + write).sum(1)
        after = State(hidden=hidden, cell=cell, memory=memory, read=read, read_weights=weights, usage=usage)
        return torch.cat([hidden, read.flatten(1)], dim=-1), after


def _cosines(keys: Tensor, memory: Tensor) -> Tensor:
    """[B, R, M], [B, N, M] -> [B, R, N]; a small number within the root keeps slots of zeros from dividing by it."""
    sizes = keys.square().sum(-1).unsqueeze(-1) * memory.square().sum(-1).unsqueeze(1)
    return keys @ memory.transpose(1, 2) / torch.sqrt(sizes + 1e-6)
