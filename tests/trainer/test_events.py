import numpy as np
import pytest
import torch
from cutpoint.trainer.models.events import SHAPE, EventEncoder, Events, find_events

WINDOWS, SAMPLES, PER_WINDOW = 30, 1000, 12
GAP = 20  # samples of the signal thinned by 4


def pulses(places: np.ndarray, channels: int = 1, noise: float = 0.01, gain: float = 1.0) -> torch.Tensor:
    """A bump of 60 samples at every place, [1, window, channel, sample]."""
    t = np.arange(WINDOWS * SAMPLES)
    signal = sum(np.exp(-0.5 * ((t - place) / 8.0) ** 2) for place in places)
    signal = signal + noise * np.random.default_rng(0).normal(size=(channels, len(t)))
    x = gain * signal.reshape(channels, WINDOWS, SAMPLES).transpose(1, 0, 2)
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))[None]


def found(events: Events) -> np.ndarray:
    """Places of the events of the first signal, in samples."""
    return (events.time[0, 0][events.present[0, 0] > 0] * 4).numpy()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("gain", [1e-2, 1.0, 1e3])
def test_pulses_are_found_once_each_in_order_at_any_gain(channels, gain):
    places = np.arange(150, WINDOWS * SAMPLES - 150, 290) + np.random.default_rng(1).integers(-40, 40, 103)
    events = find_events(pulses(places, channels, noise=0.001, gain=gain), PER_WINDOW)
    assert len(found(events)) == len(places)
    np.testing.assert_allclose(found(events), places, atol=16)
    present = events.present[0, 0] > 0
    assert (events.window[0][present].numpy() == found(events) // SAMPLES).all()
    assert not present[len(places) :].any()
    assert events.shape.shape == (1, channels * SHAPE, WINDOWS * PER_WINDOW // 2)
    assert (events.shape[0][:, ~present] == 0).all()


def test_a_border_between_windows_hides_nothing():
    places = np.arange(500, WINDOWS * SAMPLES, 500)  # every other one on a border
    np.testing.assert_allclose(found(find_events(pulses(places), PER_WINDOW)), places, atol=16)


def test_a_flat_signal_has_no_event():
    assert find_events(torch.full((2, 4, 3, 100), 7.0), PER_WINDOW).present.sum() == 0


def test_the_highest_are_kept_where_there_are_too_many():
    places = np.arange(100, WINDOWS * SAMPLES, 110)
    events = find_events(pulses(places), PER_WINDOW)
    assert events.present.sum() <= WINDOWS * PER_WINDOW // 2
    assert (np.diff(found(events)) > 0).all()


def test_an_early_event_and_an_odd_one_stand_out():
    places = np.arange(150, WINDOWS * SAMPLES - 150, 290)
    places[40] -= 90
    x = pulses(places)
    whole = x.reshape(-1)
    whole[places[70] - 40 : places[70] + 40] *= -1
    shape, figures = EventEncoder(1, 8, 1, 31, 0.0).describe(find_events(x, PER_WINDOW))
    early, late, likeness = figures[0, 0] / 3, figures[0, 1] / 3, figures[0, 11]
    assert early.argmin() == 40
    torch.testing.assert_close(early[40], torch.tensor(np.log(200 / 290), dtype=torch.float32), rtol=0, atol=0.05)
    torch.testing.assert_close(late[40], torch.tensor(np.log(380 / 290), dtype=torch.float32), rtol=0, atol=0.05)
    others = np.delete(np.arange(len(places)), (0, 39, 40, 41))
    assert early[others].abs().max() < 0.06
    assert likeness[: len(places)].argmin() == 70
    assert shape[0].square().sum(0).argmax() == 70


def test_events_beyond_the_last_are_not_seen():
    torch.manual_seed(0)
    encoder = EventEncoder(1, 8, 2, 9, 0.0).eval()
    events = find_events(pulses(np.arange(150, WINDOWS * SAMPLES - 150, 290)), PER_WINDOW)
    count = int(events.present.sum())
    cut = Events(events.window[:, :count], events.present[..., :count], events.time[..., :count], events.shape[..., :count])
    torch.testing.assert_close(encoder(events)[..., :count], encoder(cut))
