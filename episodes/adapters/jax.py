"""Episodes as JAX arrays: sharing memory on the CPU where JAX can, copied ahead of the consumer to another device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from numpy.typing import NDArray

from episodes.adapters._device_stream import DeviceStream
from episodes.adapters.each import Block, each_with_axis
from episodes.episode import Episode
from episodes.stream.stream import Stream


def to_jax(item: Episode[NDArray[Any]] | Block, device: jax.Device | None = None) -> Episode[jax.Array]:
    """`item` as JAX arrays with a leading episode axis, ``[1, n, ...]``, or ``[B, n, ...]`` of a block.

    On the CPU an array shares the memory of the episode's where that begins at a multiple of 64 bytes, as JAX demands, and
    is a copy where it does not. It always does where the bytes of one image are such a multiple, as of 28x28 or 84x84 in
    float32; of the same in uint8, give blocks of 4, 8, ... episodes. Shared memory is kept as long as the JAX array lives,
    or a computation that uses it.

    Types are kept as far as JAX keeps them: unless ``jax_enable_x64`` is set, int64 (labels, rows) becomes int32 and
    float64 float32, which are copies.

    Args:
        item: of a stream.
        device: where to; None: JAX's first.

    Raises:
        SpecError: a block of episodes of different sizes, which cannot be stacked.
    """
    device = jax.devices()[0] if device is None else device
    if device.platform != "cpu":
        return each_with_axis(item, lambda values: jax.device_put(values, device))

    def array(values: NDArray[Any]) -> jax.Array:
        if not values.flags.writeable:  # NumPy exports no such memory
            values = values.copy()
        made: jax.Array = jax.dlpack.from_dlpack(values, device)
        return made

    return each_with_axis(item, array)


def prefetch(stream: Stream[Any], device: jax.Device | None = None, *, ahead: int = 2) -> DeviceStream[Episode[jax.Array]]:
    """Items of `stream` as of `to_jax`, copied to `device` while the consumer works on the ones before.

    Save the state of what this returns; the stream itself is ahead, and nothing else may take from it.

    Args:
        stream: of episodes or blocks. For a device that is no CPU, give it a worker.
        device: where to; None: JAX's first.
        ahead: items that are on the device, or on their way, besides the one in use.

    Raises:
        StreamError: `ahead` is no whole number of 0 or more.
        WorkerFailed, SpecError: from ``next``, as `Stream` and `to_jax`, when it is that item's turn.
    """

    def begin(item: Episode[NDArray[Any]] | Block) -> Callable[[], Episode[jax.Array]]:
        made = to_jax(item, device)  # JAX copies in the background, and keeps the host's memory until it has
        return lambda: made

    return DeviceStream(stream, begin, ahead)
