"""Episodes copied to a device ahead of the consumer: from pinned memory, by a stream of copies, uint8 over the bus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, overload

import torch
from numpy.typing import NDArray
from torch import Tensor

from episodes.adapters._device_stream import DeviceStream
from episodes.adapters._torch_bus import Bus, device_of
from episodes.adapters._torch_transform import normalise
from episodes.adapters.each import Block, each, each_with_axis
from episodes.episode import Episode, EpisodeBlock, Part
from episodes.errors import StreamError
from episodes.protocols import Series
from episodes.stream.buffers import Arena
from episodes.stream.mixed_block import MixedBlock
from episodes.stream.series import SampledEpisodes
from episodes.stream.stream import Stream
from episodes.transforms import Transform


@overload
def prefetch(source: Stream[Any], device: torch.device | str, *, ahead: int = ...) -> DeviceStream[Episode[Tensor]]: ...
@overload
def prefetch(
    source: Series[Any], device: torch.device | str, *, ahead: int = ..., start: int = ..., block: int | None = ...,
    workers: int = ..., rank: int | None = ..., world: int | None = ...,
) -> DeviceStream[Episode[Tensor]]: ...  # fmt: skip
def prefetch(
    source: Stream[Any] | Series[Any], device: torch.device | str, *, ahead: int = 2, **options: Any
) -> DeviceStream[Episode[Tensor]]:
    """Episodes on `device`, ``[1, n, ...]`` or ``[B, n, ...]``, copied while the consumer works on the ones before.

    Give the series. It says what an episode is; where its transforms run is decided here: all that moves or tints pixels in
    the compiled gather, normalisation to float32 on the device, so that a quarter of the bytes cross the bus. The values
    are those of `Stream` and `to_torch`, bit by bit. (What ``then`` makes, and mixtures, are copied as they are.)

    A stream can be given in place of the series. Then what it delivers is copied, float32 as float32. Take nothing from it
    any more, and save the state of what this returns: the stream itself is ahead.

    On a GPU the host waits for nothing but a free piece of pinned memory. A tensor may be used on the stream that was
    current when it was handed on, as any other; its memory is not given to another before that stream is done with it.
    Elsewhere the same code copies at once.

    Args:
        source: a series; or a stream of episodes or blocks.
        device: where to.
        ahead: items that are on the device, or on their way, besides the one in use.
        **options: of `Stream`, where a series is given: start, block, workers, rank, world. With a GPU give one worker or
            more.

    Raises:
        StreamError: `ahead` or an option out of range; options beside a stream.
        WorkerFailed, SpecError: from ``next``, as `Stream` and `to_torch`, when it is that item's turn.
    """
    later: tuple[Transform, ...] = ()
    if isinstance(source, Stream):
        if options:
            raise StreamError(f"{', '.join(options)}: a stream has its own already; leave them out, or give its series")
        stream = source
    else:
        pixels, later = _split(source)
        stream = Stream(pixels, **options)
    sender = _Sender(device_of(device), {transform.field: transform for transform in later}, slots=max(1, ahead) + 1)
    return DeviceStream(stream, sender.begin, ahead)


def _split(series: Series[Any]) -> tuple[Series[Any], tuple[Transform, ...]]:
    """What the host makes, and what is left for the device: transforms whose float part has not been applied."""
    if not isinstance(series, SampledEpisodes) or series.then is not None:
        return series, ()
    later = tuple(transform for transform in series.transforms if transform.dtype == "float32")
    if not later:
        return series, ()
    pixels = tuple(transform.pixels for transform in series.transforms)
    return _Pixels(series, replace(series, transforms=pixels)), later


@dataclass(frozen=True, slots=True, eq=False)
class _Pixels:
    """Episodes of `whole` before normalisation. They are the same episodes, so the fingerprint is that of `whole`."""

    whole: SampledEpisodes
    pixels: SampledEpisodes

    @property
    def fingerprint(self) -> str:
        return self.whole.fingerprint

    @property
    def length(self) -> int | None:
        return self.whole.length

    @property
    def episode_bytes(self) -> int:
        return self.pixels.episode_bytes

    def __getitem__(self, index: int) -> Episode[NDArray[Any]]:
        return self.pixels[index]

    def block(self, indices: Sequence[int], arena: Arena) -> EpisodeBlock | MixedBlock:
        return self.pixels.block(indices, arena)


class _Sender:
    """Copies items to a device, each on its own; on a GPU by a stream for nothing else.

    Args:
        device: where to.
        later: by field, transforms to be finished on the device.
        slots: copies on their way at a time.
    """

    def __init__(self, device: torch.device, later: dict[str, Transform], slots: int) -> None:
        self._bus, self._later = Bus(device, slots), later
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def begin(self, item: Episode[NDArray[Any]] | Block) -> Callable[[], Episode[Tensor]]:
        """Begin to copy; what is returned hands the tensors over to the current stream."""
        if self._side is None:
            episode = self._send(item)
            return lambda: episode
        with torch.cuda.stream(self._side):
            episode = self._send(item)
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves events untyped
            ready.record(self._side)
        return partial(self._hand_over, episode, ready)

    def _send(self, item: Episode[NDArray[Any]] | Block) -> Episode[Tensor]:
        arrays: list[NDArray[Any]] = []

        def place(array: NDArray[Any]) -> int:
            arrays.append(array)
            return len(arrays) - 1

        places = each_with_axis(item, place)
        episode = each(places, self._bus.deliver(arrays).__getitem__)
        for part in _parts(episode):
            part.fields = {name: self._finished(name, values) for name, values in part.fields.items()}
        return episode

    def _finished(self, name: str, values: Tensor) -> Tensor:
        transform = self._later.get(name)
        if transform is None:
            return values
        return normalise(values.flatten(0, 1), transform).view(values.shape)

    def _hand_over(self, episode: Episode[Tensor], ready: torch.cuda.Event) -> Episode[Tensor]:
        current = torch.cuda.current_stream(self._bus.device)
        current.wait_event(ready)
        # The memory belongs to the side stream; without this it would be filled anew while `current` still reads it.
        episode.class_ids.record_stream(current)  # of all that came in one copy
        for part in _parts(episode):
            for name in self._later.keys() & part.fields.keys():
                part.fields[name].record_stream(current)
        return episode


def _parts(episode: Episode[Tensor]) -> Iterator[Part[Tensor]]:
    return (part for part in (episode.support, episode.query, episode.unlabeled) if part is not None)
