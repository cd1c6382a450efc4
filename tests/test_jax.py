"""Episodes as JAX arrays: shared where JAX can, right everywhere."""

import numpy as np
import pytest
from test_adapters import LOOK, series, uneven

import episodes
from episodes.errors import SpecError
from episodes.transforms import Transform

jax = pytest.importorskip("jax", reason="JAX is not installed")
from episodes.adapters.jax import prefetch, to_jax  # noqa: E402 - it needs JAX


def test_arrays_share_memory_that_begins_at_a_multiple_of_64_bytes():
    for transform, block in ((Transform(mean=(0.5,)), 1), (Transform(), 4)):
        one = series(transforms=(transform,))
        with episodes.Stream(one, block=block) as stream:
            item = next(stream)
        made, whole = to_jax(item), item.stacked
        for part, arrays in ((made.support, whole.support), (made.query, whole.query)):
            image, values = part.fields["image"], arrays.fields["image"]
            assert (str(image.dtype), image.shape) == (str(values.dtype), values.shape)
            assert image.unsafe_buffer_pointer() == values.ctypes.data
            assert np.array_equal(image, values)
            assert part.labels.dtype == jax.numpy.asarray(arrays.labels).dtype
            assert np.array_equal(part.labels, arrays.labels)


def test_arrays_are_copies_elsewhere_and_right_whatever_the_stream_writes_next():
    one = series(spec=episodes.EpisodeSpec(ways=3, shots=1, queries=1))  # 48 bytes of support
    with episodes.Stream(one) as stream:
        next(stream)
        item = next(stream)
    image = to_jax(item).query.fields["image"]
    assert item.query.fields["image"].ctypes.data % 64
    assert image.unsafe_buffer_pointer() != item.query.fields["image"].ctypes.data
    del item
    for source in (one, series(), series(transforms=(LOOK,))):
        with prefetch(episodes.Stream(source)) as stream:
            kept = [next(stream) for _ in range(100)]
        for i, episode in enumerate(kept):
            assert episode.query.fields["image"].shape[0] == 1
            assert np.array_equal(episode.query.fields["image"][0], source[i].query.fields["image"])
            assert np.array_equal(episode.query.rows[0], source[i].query.rows)


def test_streams_have_the_state_of_what_was_handed_on():
    with prefetch(episodes.Stream(series(), block=2), ahead=3) as stream:
        assert [next(stream).index for _ in range(2)] == [0, 2]
        state = stream.state_dict()
    assert state["next_index"] == 4
    resumed = episodes.Stream(series())
    resumed.load_state_dict(state)
    assert next(resumed).index == 4


def test_it_takes_read_only_arrays():
    episode = series()[0]
    episode.query.fields["image"].flags.writeable = False
    assert np.array_equal(to_jax(episode).query.fields["image"][0], episode.query.fields["image"])


def test_blocks_of_different_sizes_are_refused_in_their_turn():
    with prefetch(episodes.Stream(uneven(), block=8)) as stream:
        with pytest.raises(SpecError, match="episodes 0 to 7 are of different sizes"):
            next(stream)
        assert stream.state_dict()["next_index"] == 0


def test_memory_is_shared_with_computations_under_way():
    @jax.jit
    def slow(image):
        for _ in range(20):
            image = image + 1e-6 * (image @ image)
        return image.sum((0, 1, 2))

    one = series(transforms=(LOOK,))
    with episodes.Stream(one, block=8) as stream:
        sums = [slow(to_jax(next(stream)).query.fields["image"]) for _ in range(60)]
    wanted = [
        slow(np.array(block.stacked.query.fields["image"]))
        for block, _ in zip(episodes.Stream(one, block=8), sums, strict=False)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(sums, wanted, strict=True))
