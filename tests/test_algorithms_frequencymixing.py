"""Mixing of amplitude spectra: what it leaves as it is, what it changes, and what is exchanged for it."""

from __future__ import annotations

import json

import pytest
import torch

from fedlit.aggregation import Mean
from fedlit.algorithms import FedAvg, FrequencyMixing
from fedlit.algorithms.frequencymixing import alone, mean_spectrum, told_apart
from fedlit.errors import BadInput
from fedlit.networks.amplitudes import AmplitudeNorm, mixed
from fedlit.weights import sha256
from tests.conftest import fedlit, make_federation, make_site, run_rounds

IMAGES = 0.3 + 0.4 * torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))
NONE, ALL = torch.zeros(2), torch.ones(2)


def spectra(images, count):
    """Amplitudes of the frequencies -count ... count, by the middle of the shifted transform."""
    shifted = torch.fft.fftshift(torch.fft.fft2(images, norm="forward"), dim=(-2, -1)).abs()
    row, column = images.shape[-2] // 2, images.shape[-1] // 2
    return shifted[..., row - count : row + count + 1, column - count : column + count + 1]


def test_a_share_of_nothing_is_the_picture_bit_for_bit():
    assert torch.equal(mixed(IMAGES, torch.rand(2, 1, 5, 5), NONE), IMAGES)
    one = mixed(IMAGES, spectra(IMAGES.flip(0), 2), torch.tensor([0.0, 1.0]))
    assert torch.equal(one[0], IMAGES[0]) and not torch.allclose(one[1], IMAGES[1])


def test_its_own_spectrum_changes_no_picture():
    torch.testing.assert_close(mixed(IMAGES, spectra(IMAGES, 3), ALL), IMAGES, atol=1e-6, rtol=0)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_low_amplitudes_are_mixed_and_all_else_stays(share):
    other = 0.9 * spectra(IMAGES, 1).flip(0)
    found = mixed(IMAGES, other, share * ALL)
    assert found.min() > 0 and found.max() < 1  # nothing was cut off
    wanted = (1 - share) * spectra(IMAGES, 1) + share * other
    torch.testing.assert_close(spectra(found, 1), wanted, atol=1e-6, rtol=1e-4)
    before, after = torch.fft.fft2(IMAGES), torch.fft.fft2(found)
    torch.testing.assert_close(after[..., 2:-1, 2:-1], before[..., 2:-1, 2:-1], atol=1e-3, rtol=1e-4)
    turned = (after[..., 0, :2] / before[..., 0, :2]).angle()
    torch.testing.assert_close(turned, torch.zeros_like(turned), atol=1e-4, rtol=0)


def test_of_brightness_alone_it_makes_the_other_sites():
    dark, bright = torch.full((2, 1, 8, 8), 0.2), torch.full((2, 1, 16, 16), 0.6)
    torch.testing.assert_close(mixed(dark, spectra(bright, 0), ALL), torch.full_like(dark, 0.6))


def test_a_clients_spectrum_is_the_mean_over_its_pictures():
    federation, _ = make_federation([make_site("a", (7, 2, 2))])
    client = federation.fleet.clients["a"]
    wanted = spectra(client.site.train.images([*range(7)]), 2).mean(0)
    torch.testing.assert_close(mean_spectrum(client, 2), wanted, atol=1e-6, rtol=1e-5)


def test_banks_are_told_apart_however_they_were_weighed():
    own = {place: torch.rand(1, 3, 3) for place in (0, 2)}
    banks = {place: alone(each, place, 3) for place, each in own.items()}
    mean = {name: 0.9 * banks[0][name] + 0.1 * banks[2][name] for name in banks[0]}
    found = told_apart(mean)
    assert found["present"].tolist() == [1, 0, 1] and not found["amplitudes"][1].any()
    for place, each in own.items():
        torch.testing.assert_close(found["amplitudes"][place], each)


def test_without_strength_it_is_fedavg_and_exchanges_nothing(sites):
    algorithm = FrequencyMixing(strength=0)
    federation, server = make_federation(sites)
    found = run_rounds(federation, server, 2, algorithm)
    assert sha256(found.weights) == sha256(run_rounds(*make_federation(sites), 2, FedAvg()).weights)
    assert not found.slots and not algorithm.exchanged and all(not each for each in federation.fleet.memories.values())


@pytest.mark.parametrize("by", ["samples", "uniform", "loss"])
def test_the_server_learns_every_sites_spectrum(sites, by):
    algorithm = FrequencyMixing(aggregate=Mean(by=by))
    federation, server = make_federation(sites)
    first, second = federation.run(algorithm, server, 2)
    assert sha256(first.server.weights) == sha256(
        run_rounds(*make_federation(sites), 1, FedAvg(aggregate=Mean(by=by))).weights
    )  # nobody knows another's yet
    assert sha256(first.server.slots["bank"]) == sha256(second.server.slots["bank"])
    bank = second.server.slots["bank"]
    assert bank["present"].tolist() == [1, 1, 1]
    for place, name in enumerate("abc"):
        own = mean_spectrum(federation.fleet.clients[name], 2)
        torch.testing.assert_close(bank["amplitudes"][place], own, atol=1e-6, rtol=1e-5)
    extra = 4 * (3 * 5 * 5 + 3)  # bytes beside the weights
    assert second.bytes_down - first.bytes_down == 3 * extra
    plain, start = make_federation(sites)
    assert first.bytes_up - next(iter(plain.run(FedAvg(), start, 1))).bytes_up == 3 * extra


def test_shares_are_drawn_from_nothing_to_the_strength_among_the_spectra_of_others(sites, monkeypatch):
    seen = []

    def watched(images, others, shares):
        seen.append((others, shares))
        return mixed(images, others, shares)

    monkeypatch.setattr("fedlit.algorithms.frequencymixing.mixed", watched)
    federation, server = make_federation(sites, epochs=4)
    run_rounds(federation, server, 2, FrequencyMixing(strength=0.4))
    shares = torch.cat([shares for _, shares in seen])
    assert 0 <= shares.min() < 0.04 and 0.36 < shares.max() <= 0.4
    known = torch.stack([mean_spectrum(federation.fleet.clients[name], 2) for name in "abc"])
    met = torch.cat([others for others, _ in seen])
    assert {int((known - each).abs().sum((1, 2, 3)).argmin()) for each in met} == {0, 1, 2}
    assert len(met) == 4 * (7 + 5 + 4)


def test_it_is_the_mixed_pictures_that_are_trained_on(sites, monkeypatch):
    made = []

    def watched(images, others, shares):
        made.append((images, mixed(images, others, shares)))
        return made[-1][1]

    monkeypatch.setattr("fedlit.algorithms.frequencymixing.mixed", watched)
    federation, server = make_federation(sites)
    server = run_rounds(federation, server, 1, FrequencyMixing())
    client, algorithm = federation.fleet.clients["a"], FrequencyMixing()
    update, _ = algorithm.local_update(client, algorithm.broadcast(server))
    assert all((images - others).abs().max() > 0.05 for images, others in made)
    client.load(server.weights)
    pictures = iter([each for _, each in made])
    client.fit(1, objective=lambda network, batch: client.objective(network, {**batch, "image": next(pictures)}))
    assert sha256(client.weights()) == sha256(update.weights) and next(pictures, None) is None


def test_a_client_alone_has_nothing_to_mix_with():
    site = [make_site("a")]
    found = run_rounds(*make_federation(site), 2, FrequencyMixing())
    assert sha256(found.weights) == sha256(run_rounds(*make_federation(site), 2, FedAvg()).weights)


def test_pictures_of_fewer_frequencies_are_refused():
    with pytest.raises(BadInput, match=r"num_frequencies=2 needs pictures of 5 pixels or more .* one of \(4, 8\)"):
        mixed(torch.rand(1, 1, 4, 8), torch.rand(1, 1, 5, 5), torch.ones(1))


@pytest.mark.parametrize("wrong", [{"strength": 1.5}, {"strength": -1}, {"num_frequencies": -1}])
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}=.* is not allowed; use"):
        FrequencyMixing(**wrong)


def test_a_run_tells_what_was_exchanged(config_file, tmp_path):
    assert fedlit("run", config_file, "algorithm=frequency_mixing", "num_rounds=2", "local_epochs=1") == 0
    told = json.loads((tmp_path / "run" / "summary.json").read_text())["exchanged"]
    assert told == "every site's mean amplitude spectrum, 5 x 5 frequencies a channel"
    assert "5 x 5 frequencies a channel" in (tmp_path / "run" / "report.html").read_text()


def test_an_amplitude_norm_gives_every_picture_the_same_amplitudes():
    layer = AmplitudeNorm(1, 2)
    assert torch.allclose(layer.eval()(IMAGES), IMAGES, atol=1e-6) and not layer.amplitudes.any()
    layer.train()(IMAGES)
    mean = layer.amplitudes.clone()
    torch.testing.assert_close(mean, spectra(IMAGES, 2).mean(0), atol=1e-6, rtol=1e-5)
    layer(0.5 * IMAGES)
    torch.testing.assert_close(layer.amplitudes, 0.95 * mean)  # 0.9 of before and 0.1 of half as much
    found = layer.eval()(torch.cat([IMAGES, 0.8 * IMAGES]))
    torch.testing.assert_close(spectra(found, 2), layer.amplitudes.expand(4, -1, -1, -1), atol=1e-6, rtol=1e-4)


def test_what_sites_average_of_it_serves_an_unseen_one(config_file, tmp_path):
    words = ["network.amplitude_norm=2", "num_rounds=2", "local_epochs=1"]
    assert fedlit("run", config_file, *words) == 0
    assert any(",u,unseen,global,test" in line for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines())


def test_an_amplitude_norm_is_shared_as_the_mean_of_the_sites(sites):
    from fedlit.networks import UNet

    federation, server = make_federation(sites, network=UNet(1, 1, base_channels=4, depth=2, amplitude_norm=1))
    update, _ = FedAvg().local_update(federation.fleet.clients["a"], FedAvg().broadcast(server))
    assert update.weights["amplitude_norm.amplitudes"].shape == (1, 3, 3)
    after = run_rounds(federation, server, 1)
    assert (after.weights["amplitude_norm.amplitudes"] > 0).all() and "amplitude_norm.amplitudes" in after.buffers
