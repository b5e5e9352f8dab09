import numpy as np
import pytest
import torch
from cutpoint.trainer.export import export_graph, measure_parity
from cutpoint.trainer.models.spectral import Spectrum


@pytest.mark.parametrize(("length", "samples"), [(2, 9), (16, 16), (16, 5), (17, 100), (64, 1000)])
def test_log_power_is_that_of_numpy(length, samples):
    x = np.random.default_rng(0).normal(size=(3, 2, samples)).astype(np.float32)
    out = Spectrum(length)(torch.from_numpy(x)).numpy()
    hop, window = length // 2, np.hanning(length + 1)[:-1]
    frames = max(1, int(np.ceil((samples - length) / hop)) + 1)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (0, (frames - 1) * hop + length - samples)))
    cut = np.stack([padded[..., i * hop : i * hop + length] for i in range(frames)], -2)
    power = np.abs(np.fft.rfft(cut * window)) ** 2 / (window**2).sum()  # [row, channel, frame, bin]
    wanted = np.log(power + 1e-6).transpose(0, 1, 3, 2).reshape(3, -1, frames)
    assert out.shape == wanted.shape
    np.testing.assert_allclose(np.exp(out), np.exp(wanted), rtol=1e-3, atol=1e-5)


def test_white_noise_has_power_one_and_a_tone_its_bin():
    noise = torch.randn(200, 1, 512, generator=torch.Generator().manual_seed(0))
    power = Spectrum(64)(noise).exp().mean((0, 2))
    torch.testing.assert_close(power[1:-1], torch.ones(31), rtol=0.15, atol=0)
    tone = torch.cos(2 * torch.pi * 5 / 64 * torch.arange(512)).reshape(1, 1, -1)
    assert (Spectrum(64)(tone).argmax(1) == 5).all()


def test_it_exports(tmp_path):
    model = Spectrum(32).eval()
    export_graph(model, (2, 100), False, tmp_path / "spectrum.onnx")
    batches = [np.random.default_rng(0).normal(size=(rows, 2, 100)).astype(np.float32) for rows in (1, 5)]
    assert measure_parity(model, tmp_path / "spectrum.onnx", batches).max_abs_difference < 1e-4
