"""Blocks of a signal against the whole recording: any chunks, the same answers, bounded memory."""

import numpy as np
import pytest
from bundles import manifest
from cutpoint.bundle import Input, Windows
from cutpoint.errors import BadConfig, BadData
from cutpoint.signals import SampleBuffer, Windower
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=200, database=None)
SAMPLES = 5


def cut_up(length: int, sizes: list[int]) -> list[slice]:
    """Slices of a recording, of these sizes in turn."""
    found, at, i = [], 0, 0
    while at < length:
        step = sizes[i % len(sizes)]
        found.append(slice(at, at + step))
        at, i = at + step, i + 1
    return found


def seen(x: np.ndarray, reach: int | None) -> np.ndarray:
    """A model by hand, in exact integers: [1, window, ...] to [1, window, 2], of the windows `reach` either way, None for all.

    A window beyond the edge counts as -1, so that a wrong edge shows, and so does each place.
    """
    sums = x[0].sum(axis=tuple(range(1, x.ndim - 1)), dtype=np.float64)
    if reach is None:
        return np.stack((sums, np.full(len(sums), (np.arange(1, len(sums) + 1) * sums).sum())), axis=1)[None].astype(np.float32)
    wide = np.concatenate((np.full(reach, -1.0), sums, np.full(reach, -1.0)))
    around = sum((i + 1) * wide[i : i + len(sums)] for i in range(2 * reach + 1))
    return np.stack((sums, around), axis=1)[None].astype(np.float32)


def answers(windower: Windower, recording: np.ndarray, slices: list[slice], reach: int | None) -> list[np.ndarray]:
    """All answers, in the order that they come; checks that they come in order, and once."""
    found: list[np.ndarray] = []

    def drain() -> None:
        while (block := windower.take()) is not None:
            assert block.first == sum(map(len, found))
            found.append(block.answered(seen(block.x, reach)))
            assert len(found[-1]) == block.count

    for part in slices:
        windower.push(recording[part])
        drain()
    windower.finish()
    drain()
    return found


def recordings(length: int, channels: int) -> np.ndarray:
    return np.random.default_rng(length).integers(-9, 10, (length, channels)).astype(np.float32)


SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@QUICK
@given(st.integers(0, 130), SIZES, st.integers(0, 4), st.sampled_from([None, 1, 3]), st.sampled_from([1, 2]))
def test_with_a_known_context_any_chunks_give_the_whole_recording(length, sizes, context, most, channels):
    recording = recordings(length, channels)
    windower = Windower(SAMPLES, channels, context=context, channel_axis=channels > 1, most=most)
    found = answers(windower, recording, cut_up(length, sizes), context)
    windows = length // SAMPLES
    whole = recording[: windows * SAMPLES].reshape(1, windows, SAMPLES, channels)
    wanted = seen(whole, context)[0]
    np.testing.assert_array_equal(np.concatenate(found) if found else np.empty((0, 2)), wanted)
    assert (windower.answered, windower.left_over) == (windows, length % SAMPLES)


@QUICK
@given(st.integers(0, 130), SIZES, st.integers(1, 7), st.booleans())
def test_sequences_are_answered_as_each_for_itself(length, sizes, count, fixed):
    recording = recordings(length, 1)
    windower = Windower(SAMPLES, sequence=count, fixed=fixed)
    found = answers(windower, recording, cut_up(length, sizes), None)
    windows = length // SAMPLES
    whole = recording[: windows * SAMPLES, 0].reshape(1, windows, SAMPLES)
    wanted = [seen(whole[:, at : at + count], None)[0] for at in range(0, windows, count)]
    if fixed and windows % count:
        rest = windows % count
        wanted[-1:] = [seen(whole[:, -count:], None)[0, -rest:]] if windows > count else []
    none = np.empty((0, 2))
    np.testing.assert_array_equal(np.concatenate(found or [none]), np.concatenate(wanted or [none]))
    assert windower.left_over == length - SAMPLES * sum(map(len, wanted))


def test_a_window_is_answered_once_its_context_is_in_and_not_before():
    windower = Windower(SAMPLES, context=2)
    for i in range(15 * SAMPLES):
        windower.push(np.zeros(1, np.float32))
        block = windower.take()
        whole = (i + 1) // SAMPLES
        ready = (i + 1) % SAMPLES == 0 and whole > 2
        assert (block is not None) == ready
        if block is not None:
            assert (block.first, block.count, block.skip) == (whole - 3, 1, min(whole - 3, 2))
    windower.finish()
    last = windower.take()
    assert last is not None and (last.first, last.count, last.x.shape) == (13, 2, (1, 4, SAMPLES))
    assert windower.take() is None


def test_a_fixed_graph_gets_no_other_number_of_windows():
    windower = Windower(SAMPLES, sequence=4, fixed=True)
    windower.push(recordings(9 * SAMPLES + 2, 1))
    windower.finish()
    blocks = [windower.take() for _ in range(4)]
    assert [(b.first, b.skip, b.count, b.x.shape) for b in blocks if b] == [
        (0, 0, 4, (1, 4, 5)), (4, 0, 4, (1, 4, 5)), (8, 3, 1, (1, 4, 5)),
    ]  # fmt: skip
    short = Windower(SAMPLES, sequence=4, fixed=True)
    short.push(recordings(3 * SAMPLES, 1))
    short.finish()
    assert short.take() is None and (short.answered, short.left_over) == (0, 15)


def test_channels_come_before_samples():
    windower = Windower(2, 3, context=0, channel_axis=True)
    windower.push(np.arange(12, dtype=np.float32).reshape(4, 3))
    block = windower.take()
    assert block is not None
    np.testing.assert_array_equal(block.x, [[[[0, 3], [1, 4], [2, 5]], [[6, 9], [7, 10], [8, 11]]]])
    assert block.x.flags.c_contiguous
    before = block.x.copy()
    windower.push(np.full((40, 3), 99, np.float32))
    np.testing.assert_array_equal(block.x, before)  # a block is nobody's view


@pytest.mark.parametrize("size", [1, 7, 1000, 200_000])
def test_memory_is_bounded_whatever_the_chunks(size):
    windower, most, blocks = Windower(100, context=3, most=8), 0, 0
    for _ in range(400_000 // size if size > 1 else 40_000):
        windower.push(np.zeros(size, np.float32))
        most = max(most, windower.nbytes)
        while windower.take() is not None:
            blocks += 1
    assert blocks
    assert most <= 4 * 4 * (size + 7 * 100) + 4 * 1024
    assert windower.nbytes <= 4 * 4 * 800  # what a large chunk took is given back


def test_the_buffer_reads_what_was_appended_by_position():
    buffer = SampleBuffer(1, -3)
    buffer.append(np.arange(-3, 5000, dtype=np.float32)[:, None])
    buffer.discard(4000)
    np.testing.assert_array_equal(buffer.read(4000, 4003)[:, 0], [4000, 4001, 4002])
    assert (buffer.start, buffer.stop, len(buffer)) == (4000, 5000, 1000)
    for start, stop in ((3999, 4001), (4990, 5001), (4500, 4499)):
        with pytest.raises(IndexError, match="holds 4000 to 5000"):
            buffer.read(start, stop)


def of(windows: Windows, shape: tuple[int, ...], sequence: int | None = None) -> Windower:
    document = manifest("m", ("a",), shape).model_copy(update={"windows": windows, "input": Input(shape=shape)})
    return Windower.of(document, sequence)


def test_the_manifest_says_how_a_signal_is_scored():
    free, axes = (-1, -1, 50), (-1, -1, 3, 50)
    known = of(Windows(samples=50, context=3, trained_count=12), free)
    assert (known.context, known.sequence) == (3, None)
    stated = of(Windows(samples=50, context=3, trained_count=12), free, 20)
    assert (stated.context, stated.sequence) == (None, 20)
    trained = of(Windows(samples=50, trained_count=12, channels=3), axes)
    assert (trained.context, trained.sequence, trained.channels) == (None, 12, 3)
    fixed = of(Windows(samples=50, count=7, context=1), (-1, 7, 50))
    assert (fixed.context, fixed.sequence) == (None, 7)
    with pytest.raises(BadConfig, match="sequence_windows is 8; expected 7, the only number that 'm' takes"):
        of(Windows(samples=50, count=7), (-1, 7, 50), 8)
    with pytest.raises(BadConfig, match="sequence_windows is not given; expected how many windows"):
        of(Windows(samples=50), free)
    plain = manifest("rows", ("a",), (-1, 4))
    with pytest.raises(BadConfig, match="model 'rows' is of task binary; expected one of windows"):
        Windower.of(plain)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"samples": 0}, "samples"),
        ({"channels": 0}, "channels"),
        ({"context": -1}, "context"),
        ({"context": None}, "sequence is None"),
        ({"context": None, "sequence": 0}, "sequence is 0"),
        ({"sequence": 3}, "context and sequence"),
        ({"most": 0}, "most"),
        ({"channels": 2}, "channels is 2; expected 1"),
        ({"samples": 1 << 24}, "samples of a block"),
        ({"context": 1 << 24}, "samples of a block"),
    ],
)
def test_settings_out_of_range_are_refused(change, name):
    with pytest.raises(BadConfig, match=f"^{name}"):
        Windower(**{"samples": 5, "context": 1, "channel_axis": False} | change)


def test_chunks_of_another_shape_or_after_the_end_are_refused():
    windower = Windower(SAMPLES, 2, context=1, channel_axis=True)
    for chunk in (np.zeros(4, np.float32), np.zeros((4, 3), np.float32), np.zeros((1, 4, 2), np.float32)):
        with pytest.raises(BadData, match=r"expected \[sample, 2 channels\]"):
            windower.push(chunk)
    windower.push(np.zeros((30, 2), np.float32))
    windower.finish()
    with pytest.raises(BadData, match="after the end"):
        windower.push(np.zeros((4, 2), np.float32))
    block = windower.take()
    assert block is not None
    with pytest.raises(BadData, match="logits"):
        block.answered(np.zeros((1, 2, 1), np.float32))
