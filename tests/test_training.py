"""Training on a tiny network and made-up pictures: it learns, resumes, and exports what the codec can use.

Needs the ``train`` extra: ``pytest -m training tests/test_training.py``. What the extra brings is imported
within tests, so that this file can be collected without it.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tiny_model import CONFIG, random_network

from pillow_nic import codec, container, distortion, weights
from pillow_nic.errors import WeightsError
from pillow_nic.network import NetworkConfig

pytestmark = [
    pytest.mark.training,
    # PyTorch's compiler imports parts that use torch.jit, which new versions of it deprecate.
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]

SMALL = replace(CONFIG, lmbda_min=0.002, lmbda_max=0.1)
CPU = torch.device("cpu")


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Waves and edges in colour: smooth enough that a few steps learn something."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    a, b, c = random.uniform(0.02, 0.3, (3, 3))
    waves = 127 + 50 * np.sin(x[..., None] * a + 6 * b) + 50 * np.sin(y[..., None] * c + x[..., None] * b)
    return np.clip(waves + random.normal(0, 3, waves.shape), 0, 255).astype(np.uint8)


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pictures, a tar of two more in a sub-folder, and files that are no pictures."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "b.png").write_bytes(png(picture(256, 320, 1)))
    (folder / "notes.txt").write_text("not a picture")
    sub = folder / "sub"
    sub.mkdir()
    (sub / "a.PNG").write_bytes(png(picture(288, 256, 2)))
    with tarfile.open(sub / "c.tar", "w") as tar:
        for name, content in (
            ("x/one.png", png(picture(256, 256, 3))),
            ("x/readme.md", b"nothing"),
            ("two.png", png(picture(260, 270, 4)[..., 0])),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return folder


@pytest.fixture(scope="module")
def parts() -> SimpleNamespace:
    """The modules that need the extra."""
    from pillow_nic.training import data, export, grow, loss, train

    return SimpleNamespace(data=data, export=export, grow=grow, loss=loss, train=train)


@pytest.fixture(scope="module")
def whole_klt(parts: SimpleNamespace, data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All 768 vectors and deviations of the pictures' KLT: ten seconds, once."""
    torch.set_num_threads(1)
    return parts.data.klt(parts.data.Pictures([data], CPU), 768, 16, np.random.default_rng(4))


@pytest.fixture(scope="module", autouse=True)
def _klt_once(
    parts: SimpleNamespace, whole_klt: tuple[torch.Tensor, torch.Tensor]
) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts.train, "klt", lambda _, channels, *__: [t[:channels] for t in whole_klt])
        yield patch


def settings(parts: SimpleNamespace, data: Path, out: Path, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "data": [str(data)],
        "out": str(out),
        "steps": 20,
        "batch": 4,
        "crop": 64,
        "last_crop": 64,
    }
    values |= {"warmup": 3, "lr": 3e-3, "ema": 0.7, "compile": False, "seed": 5}
    return parts.train.TrainConfig(**(values | changes))


@pytest.fixture(scope="module")
def trained(parts: SimpleNamespace, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of twenty steps from the KLT, narrow and mixed ones among them."""
    out = tmp_path_factory.mktemp("run")
    parts.train.train(settings(parts, data, out, narrow=0.5, prefix=0.2, delta=0.2), SMALL)
    return out / "checkpoint.safetensors"


def model_of(parts: SimpleNamespace, checkpoint: Path) -> Any:
    config, state, _ = parts.train.load_checkpoint(checkpoint)
    model = parts.loss.TrainingModel(config)
    model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()}, strict=False)
    return model.eval()


# ------------------------------------------------------------------------------------------------------- data


def test_pictures_come_from_folders_and_tars_in_a_fixed_order(parts: SimpleNamespace, data: Path) -> None:
    shapes = [parts.data.decode_picture(content).shape for content in parts.data.read_files([data])]
    assert shapes == [(256, 320, 3), (288, 256, 3), (256, 256, 3), (260, 270, 3)]
    (only,) = parts.data.read_files([data / "b.png"])
    assert only == (data / "b.png").read_bytes()
    tar = list(parts.data.read_files([data / "sub" / "c.tar"]))
    assert len(tar) == 2
    np.testing.assert_array_equal(parts.data.decode_picture(tar[0]), picture(256, 256, 3))


def test_no_pictures(parts: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures in"):
        parts.data.Pictures([tmp_path], CPU)


def test_a_picture_smaller_than_the_crops(parts: SimpleNamespace, data: Path) -> None:
    parts.data.Pictures([data], CPU, 256)
    with pytest.raises(ValueError, match="a picture is smaller than the crops of 257 pixels"):
        parts.data.Pictures([data], CPU, 257)


def test_screens_have_their_share_of_the_crops(parts: SimpleNamespace, data: Path, tmp_path: Path) -> None:
    for number, height in enumerate((64, 192)):  # black, as no photograph is
        (tmp_path / f"{number}.png").write_bytes(png(np.zeros((height, 64, 3), np.uint8)))
    pictures = parts.data.Pictures([data], CPU, 1, [tmp_path], 0.2)
    assert len(pictures.pictures) == 6
    assert pictures.weights.sum() == pytest.approx(1)
    assert pictures.weights[4:] == pytest.approx([0.2 / 4, 0.2 * 3 / 4])
    crops = pictures.crops(np.random.default_rng(1), 2000, 8)
    assert (crops.amax((1, 2, 3)) == 0).float().mean().item() == pytest.approx(0.2, abs=0.03)
    # a share of nothing reads nothing; a share without pictures is an error
    assert len(parts.data.Pictures([data], CPU, 1, [tmp_path], 0.0).pictures) == 4
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"no pictures in .*none"):
        parts.data.Pictures([data], CPU, 1, [tmp_path / "none"], 0.2)


def test_crops(parts: SimpleNamespace, data: Path) -> None:
    pictures = parts.data.Pictures([data], CPU)
    assert len(pictures.pictures) == 4
    assert pictures.megapixels == pytest.approx((256 * 320 + 288 * 256 + 256 * 256 + 260 * 270) / 1e6)
    crops = pictures.crops(np.random.default_rng(1), 9, 48)
    assert crops.shape == (9, 3, 48, 48)
    assert crops.dtype == torch.float32
    assert 0 <= crops.min() < 0.3
    assert 0.7 < crops.max() <= 1
    assert torch.equal(crops, pictures.crops(np.random.default_rng(1), 9, 48))
    assert not torch.equal(crops, pictures.crops(np.random.default_rng(2), 9, 48))


def test_crops_may_be_as_large_as_the_picture(parts: SimpleNamespace, data: Path) -> None:
    pictures = parts.data.Pictures([data / "sub" / "c.tar"], CPU)
    assert pictures.crops(np.random.default_rng(3), 6, 256).shape == (6, 3, 256, 256)


def test_klt_basis_is_orthonormal_and_ordered_by_energy(
    parts: SimpleNamespace, data: Path, whole_klt: tuple[torch.Tensor, torch.Tensor]
) -> None:
    pictures = parts.data.Pictures([data], CPU)
    basis, deviation = whole_klt
    assert basis.shape == (768, 3, 16, 16)
    assert deviation.shape == (768,)
    flat = basis.flatten(1).double()
    torch.testing.assert_close(flat @ flat.T, torch.eye(768, dtype=torch.float64), atol=1e-5, rtol=0)
    assert (deviation > 0).all()
    assert (deviation.diff() <= 0).all()
    # deviation is that of the coefficients about mid-grey
    crops = pictures.crops(np.random.default_rng(9), 64, 256) - 0.5
    coefficients = torch.nn.functional.conv2d(crops, basis, stride=16)
    measured = coefficients.square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(measured[:5], deviation[:5], rtol=0.15, atol=0)
    assert measured[:32].square().sum() > 0.95 * crops.square().mean((0, 2, 3)).sum() * 256


# ------------------------------------------------------------------------------------------------------- loss


def random_model(parts: SimpleNamespace, config: NetworkConfig = SMALL) -> Any:
    model = parts.loss.TrainingModel(config)
    model.network.load_state_dict(random_network(config).state_dict())
    return model


def test_a_forward_pass_and_its_gradients(parts: SimpleNamespace) -> None:
    model = random_model(parts)
    x = torch.rand(2, 3, 64, 80)
    result = parts.loss.forward(model, x, torch.tensor([0.4, 2.6]))
    assert result.bpp.shape == result.mse.shape == result.hyper_bpp.shape == (2,)
    assert result.x_hat.shape == x.shape
    assert result.y_hat.shape == (2, SMALL.latent_channels, 4, 5)
    assert (result.bpp > result.hyper_bpp).all()
    (result.bpp.sum() + result.mse.sum()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None and not name.endswith("quantiles")]
    assert idle == []


@pytest.mark.parametrize("width", [0, 1, 2])
def test_widths_prefixes_and_steps(parts: SimpleNamespace, width: int) -> None:
    model = random_model(parts)
    x, point = torch.rand(1, 3, 64, 64), torch.tensor([1.5])
    with torch.no_grad():
        full = parts.loss.forward(model, x, point, width=width, hard=True)
        first = parts.loss.forward(model, x, point, width=width, groups=1, hard=True)
        coarse = parts.loss.forward(model, x, point, width=width, delta=1.0, hard=True)
    assert full.x_hat.shape == x.shape
    channels = SMALL.group_ends[SMALL.widths[width].groups - 1]
    assert full.y_hat.shape[1] == first.y_hat.shape[1] == channels
    assert first.bpp < full.bpp
    torch.testing.assert_close(first.hyper_bpp, full.hyper_bpp)
    assert coarse.bpp < full.bpp
    torch.testing.assert_close(full.x_hat * 255, (full.x_hat * 255).round(), atol=1e-3, rtol=0)


def test_structural_distortion(parts: SimpleNamespace) -> None:
    x = torch.from_numpy(picture(192, 192, 6)).permute(2, 0, 1)[None].float() / 255
    shifted, blurred = x + 0.04, torch.nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False)

    def distortions(x_hat: torch.Tensor) -> tuple[float, float]:
        found = [parts.loss.distortion(tune, x, x_hat).item() for tune in ("ms-ssim", "psnr")]
        assert found[1] == pytest.approx((x_hat - x).square().mean().item() * 255**2, rel=1e-5)
        return found[0], found[1]

    assert distortions(x)[0] == pytest.approx(0, abs=1e-3)
    # A shift of all colours is an error that MS-SSIM hardly sees, and a blur one that it sees well.
    (shift, shift_mse), (blur, blur_mse) = distortions(shifted), distortions(blurred)
    assert shift == pytest.approx(distortion.MIXTURES["ms-ssim"].mse * shift_mse, rel=0.3)
    assert blur / blur_mse > 3 * shift / shift_mse


def test_judged(parts: SimpleNamespace) -> None:
    x = torch.from_numpy(np.stack([picture(192, 192, 6), picture(192, 192, 7)])).permute(0, 3, 1, 2) / 255
    worse = (x + torch.tensor([0.01, 0.1]).reshape(2, 1, 1, 1) * torch.randn(x.shape)).clamp(0, 1)
    psnr = parts.loss.judged("psnr", x, worse)
    torch.testing.assert_close(psnr, 10 * torch.log10(1 / (x - worse).square().mean((1, 2, 3))))
    similarity = parts.loss.judged("ms-ssim", x, worse)
    torch.testing.assert_close(1 - 10 ** (-similarity / 10), parts.loss.similarity(x, worse))
    assert similarity[0] > similarity[1] + 5


# ------------------------------------------------------------------------------------------------------- grow


def outputs(model: Any) -> list[torch.Tensor]:
    """What a network's transforms give for the same picture."""
    network, point = model.network, torch.tensor([1.3])
    with torch.no_grad():
        y = network.g_a(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)), point)
        return [y, network.h_a(y, point), network.g_s(y, point)]


def test_grown_from_the_same_shapes_it_is_a_copy(parts: SimpleNamespace) -> None:
    old, new = random_model(parts), parts.loss.TrainingModel(SMALL)
    said = parts.grow.grow(new, old.state_dict())
    assert said == "0 tensors cut to their first channels, 0 new in no part"
    for name, value in new.state_dict().items():
        assert torch.equal(value, old.state_dict()[name]), name


def test_where_widths_differ_all_start_from_the_widest(parts: SimpleNamespace) -> None:
    old = random_model(parts)
    new = parts.loss.TrainingModel(replace(SMALL, widths=SMALL.widths[-2:]))
    parts.grow.grow(new, old.state_dict())
    for name, value in new.state_dict().items():
        if ".conditioning." in name and "g_s." in name:
            assert torch.equal(value, old.state_dict()[name][-1:].expand(value.shape)), name


def test_new_blocks_of_the_writer_change_nothing(parts: SimpleNamespace) -> None:
    writer = SMALL.writer
    larger = replace(
        writer, blocks_8=(*writer.blocks_8, 7), blocks_16=(*writer.blocks_16, *writer.blocks_16, 30)
    )
    old, new = random_model(parts), parts.loss.TrainingModel(replace(SMALL, writer=larger))
    said = parts.grow.grow(new, old.state_dict())
    assert said == "0 tensors cut to their first channels, 18 new in g_a.blocks_16, g_a.blocks_8"
    for before, after in zip(outputs(old), outputs(new), strict=True):
        torch.testing.assert_close(after, before)
    # but they can learn: what the last convolution sees is not zero
    point = torch.tensor([1.0])
    new.network.g_a(torch.rand(1, 3, 64, 64), point).square().sum().backward()
    gradient = new.network.g_a.blocks_16[2].conv2.weight.grad
    assert gradient.abs().max() > 0


def test_a_smaller_synthesis_takes_the_first_channels(parts: SimpleNamespace) -> None:
    old = random_model(parts)
    small = replace(SMALL, channels_8=12, channels_16=16, ranks=replace(SMALL.ranks, blocks_16=9))
    new = parts.loss.TrainingModel(small)
    said = parts.grow.grow(new, old.state_dict())
    assert " new in no part" in said
    assert int(said.split()[0]) > 10
    for name, value in new.state_dict().items():
        before = old.state_dict()[name]
        assert torch.equal(value, before[tuple(slice(n) for n in value.shape)]), name


def test_what_has_another_shape_keeps_its_own_start(parts: SimpleNamespace) -> None:
    old = random_model(parts)
    new = parts.loss.TrainingModel(replace(SMALL, context_hidden=SMALL.context_hidden + 1))
    start = {k: v.clone() for k, v in new.state_dict().items()}
    parts.grow.grow(new, old.state_dict())
    larger = set()
    for name, value in new.state_dict().items():
        before = old.state_dict()[name]
        if value.shape != before.shape:
            larger.add(name.split(".")[1])
            before = start[name]
        assert torch.equal(value, before), name
    assert larger == {"context"}


# ------------------------------------------------------------------------------------------------------ train


def test_forty_steps_lower_the_loss(
    parts: SimpleNamespace,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    whole_klt: tuple[torch.Tensor, torch.Tensor],
) -> None:
    # The KLT is too good a start for a few steps to better it: begin with deviations three times too small.
    basis, deviation = (t[: SMALL.latent_channels] for t in whole_klt)
    monkeypatch.setattr(parts.train, "klt", lambda *_: (basis, deviation / 3))
    config = settings(parts, data, tmp_path, delta=0.0, lr=4e-3, warmup=10, steps=40)
    pictures = parts.data.Pictures([data], CPU)
    x = pictures.crops(np.random.default_rng(8), 8, 128)
    point = torch.linspace(0, SMALL.rate_points - 1, 8)

    def loss(model: Any) -> float:
        with torch.no_grad():
            result = parts.loss.forward(model.eval(), x, point, hard=True)
        lmbda = SMALL.lmbda(point)
        return ((lmbda / 0.01) ** -0.5 * (result.bpp + lmbda * result.mse)).mean().item()

    start = parts.loss.TrainingModel(SMALL)
    start.network.start_from_klt(basis, deviation / 3)
    after = loss(parts.train.train(config, SMALL))
    assert after < 0.9 * loss(start)
    said = capsys.readouterr().out
    assert said.startswith("4 pictures, 0 Mpixel")
    assert "step 1 " in said
    assert "step 10 " in said


def test_checkpoint_round_trip(parts: SimpleNamespace, trained: Path) -> None:
    network, state, done = parts.train.load_checkpoint(trained)
    assert network == SMALL
    assert done["steps"] == 20
    assert done["crops"] == 80
    assert done["minutes"] > 0
    model = parts.loss.TrainingModel(network)
    assert set(state) == set(model.state_dict())
    with safe_open(trained, "pt") as f:
        metadata = f.metadata()
        keys = set(f.keys())
        average = f.get_tensor("ema.network.g_a.stem.weight")
        last = f.get_tensor("network.g_a.stem.weight")
    assert json.loads(metadata["training"])["steps"] == 20
    assert keys == set(state) | {f"ema.{k}" for k in state}
    # the moving average is what is read, and not the last step's weights, unless they are asked for
    assert torch.equal(state["network.g_a.stem.weight"], average)
    assert not torch.equal(average, last)
    raw = parts.train.load_checkpoint(trained, averaged=False)[1]
    assert set(raw) == set(state)
    assert torch.equal(raw["network.g_a.stem.weight"], last)
    assert sorted(p.name for p in trained.parent.iterdir()) == ["checkpoint.safetensors", "optimizer.pt"]


def copy_of(trained: Path, out: Path) -> Path:
    """The run again, to go on with."""
    shutil.copytree(trained.parent, out)
    return out


def optimizer_of(out: Path) -> dict[str, Any]:
    return torch.load(out / "optimizer.pt", weights_only=True)


def states(parts: SimpleNamespace, out: Path) -> dict[str, torch.Tensor]:
    """The last step's weights."""
    return parts.train.load_checkpoint(out / "checkpoint.safetensors", averaged=False)[1]


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The parts of the network that changed."""
    return {
        name.removeprefix("network.").split(".")[0]
        for name, value in before.items()
        if not torch.equal(value, after[name])
    }


def test_the_same_command_again_goes_on(
    parts: SimpleNamespace, data: Path, trained: Path, tmp_path: Path
) -> None:
    out = copy_of(trained, tmp_path / "run")
    # Nothing moves at a rate of 0, so what comes out is what went in: weights, average and momentum.
    parts.train.train(settings(parts, data, out, steps=1, lr=0.0, ema=1.0))
    assert moved(states(parts, trained.parent), states(parts, out)) == set()
    # The average goes on at the 21st step's factor: 22/31.
    average, last = parts.train.load_checkpoint(trained)[1], states(parts, out)
    for key, value in parts.train.load_checkpoint(out / "checkpoint.safetensors")[1].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.lerp(average[key], last[key], 9 / 31))
    network, _, done = parts.train.load_checkpoint(out / "checkpoint.safetensors")
    assert network == SMALL
    assert (done["steps"], done["crops"]) == (21, 84)
    first, second = optimizer_of(trained.parent), optimizer_of(out)
    assert [group["step"] for group in first["param_groups"]] == [20] * 3
    assert [group["step"] for group in second["param_groups"]] == [21] * 3
    momentum = [
        torch.cat([s[key].flatten() for s in optimizer["state"].values() if (key := "momentum_buffer") in s])
        for optimizer in (first, second)
    ]
    similarity = torch.nn.functional.cosine_similarity(*momentum, dim=0)
    assert 0.2 < similarity < 0.9999


def test_a_run_with_the_optimiser_state_does_not_warm_up_again(
    parts: SimpleNamespace, data: Path, trained: Path, tmp_path: Path
) -> None:
    out, how = copy_of(trained, tmp_path / "run"), {"steps": 1, "warmup": 10, "lr": 1e-3}

    def rate() -> float:
        parts.train.train(settings(parts, data, out, **how), SMALL)
        return optimizer_of(out)["param_groups"][0]["lr"]

    assert rate() == pytest.approx(1e-3)
    (out / "optimizer.pt").unlink()
    assert rate() == pytest.approx(1e-4)


def test_a_new_trunk_averages_from_its_own_start(
    parts: SimpleNamespace, data: Path, trained: Path, tmp_path: Path
) -> None:
    # Steps of the run that it started from do not slow the average down.
    parts.train.train(settings(parts, data, tmp_path, start=str(trained), steps=1, ema=1.0), SMALL)
    before, last = parts.train.load_checkpoint(trained)[1], states(parts, tmp_path)
    for key, value in parts.train.load_checkpoint(tmp_path / "checkpoint.safetensors")[1].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.lerp(before[key], last[key], 9 / 11))


def test_two_runs_see_other_crops(
    parts: SimpleNamespace, data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    real = parts.data.Pictures.crops

    def noting(*arguments: Any) -> torch.Tensor:
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr(parts.data.Pictures, "crops", noting)
    out = copy_of(trained, tmp_path / "run")
    for _ in range(2):
        parts.train.train(settings(parts, data, out, steps=1))
    assert not torch.equal(*seen)


def test_rate_falls_to_one_percent(parts: SimpleNamespace, data: Path, tmp_path: Path) -> None:
    config = settings(parts, data, tmp_path, steps=4, lr=1e-3, warmup=0, decay=0.5)
    parts.train.train(config, SMALL)
    # the fourth step begins at ¾ of the run, half way down
    for group in optimizer_of(tmp_path)["param_groups"]:
        assert group["lr"] == pytest.approx(1e-3 * group["scale"] * (0.01 + 0.99 / 2))
    scales = {group["scale"] for group in optimizer_of(tmp_path)["param_groups"]}
    assert scales == {1.0, config.linear_lr}


def test_larger_crops_at_the_end(parts: SimpleNamespace, data: Path, tmp_path: Path) -> None:
    parts.train.train(settings(parts, data, tmp_path, steps=4, last_crop=128, last_part=0.5), SMALL)
    assert parts.train.load_checkpoint(tmp_path / "checkpoint.safetensors")[2]["crops"] == 4 + 4 + 4 + 1


def test_start_from_another_network(
    parts: SimpleNamespace, data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = replace(SMALL, writer=replace(SMALL.writer, blocks_16=(*SMALL.writer.blocks_16, 9)))
    config = settings(parts, data, tmp_path, start=str(trained), steps=1, lr=0.0)
    model = parts.train.train(config, larger)
    assert "0 tensors cut to their first channels, 6 new in g_a.blocks_16" in capsys.readouterr().out
    for before, after in zip(outputs(model_of(parts, trained)), outputs(model), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    network, _, done = parts.train.load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert network == larger
    assert (done["steps"], done["crops"]) == (21, 84)
    assert [group["step"] for group in optimizer_of(tmp_path)["param_groups"]] == [1] * 3


def test_same_seed_gives_the_same_weights(parts: SimpleNamespace, data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        parts.train.train(settings(parts, data, tmp_path / name, steps=2), SMALL)
    assert moved(states(parts, tmp_path / "one"), states(parts, tmp_path / "two")) == set()


@pytest.mark.parametrize("optimizer", ["adam", "soap", "muon"])
def test_every_optimizer_moves_every_kind_of_parameter(
    parts: SimpleNamespace, data: Path, tmp_path: Path, optimizer: str
) -> None:
    config = settings(parts, data, tmp_path, optimizer=optimizer, steps=3, delta=0.0)
    parts.train.train(config, SMALL)
    after = parts.train.load_checkpoint(tmp_path / "checkpoint.safetensors")[1]
    assert all(torch.isfinite(v).all() for v in after.values())
    torch.manual_seed(int(np.random.default_rng([config.seed, 0]).integers(1 << 31)))
    start = parts.loss.TrainingModel(SMALL).state_dict()
    changed = {name for name, value in start.items() if not torch.equal(after[name], value)}
    parameters = (
        "g_a.head.weight",
        "g_s.head.bias",
        "h_a.conv2.weight",
        "context.step_nets.0.head.weight",
        "hyper_prior.head.weight",
    )
    for name in (*parameters, "gain.log2_gain", "hyper_gain.log2_gain", "g_a.klt.weight"):
        assert f"network.{name}" in changed
    assert "network.h_a.conv2.weight" in changed


@pytest.mark.parametrize("shape", [(5, 12, 3, 3), (12, 5, 3, 3), (12, 5, 1, 1)])
def test_muon_orthogonalises_in_single_precision(parts: SimpleNamespace, shape: tuple[int, ...]) -> None:
    from pillow_nic.training.muon import Float32Muon

    def matrix(weight: torch.Tensor) -> torch.Tensor:
        """Its shorter side is the fewer of outputs and inputs."""
        tall = shape[0] > shape[1]
        return weight.movedim(1, -1).reshape(-1, shape[1]) if tall else weight.flatten(1)

    weight = torch.nn.Parameter(torch.zeros(shape))
    optimizer = Float32Muon([{"params": [weight], "use_muon": True, "use_adjusted_lr": True}], lr=1.0)
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    gradient *= torch.logspace(0, 1, 5).reshape((5, 1, 1, 1) if shape[0] == 5 else (1, 5, 1, 1))
    weight.grad = gradient.clone()
    optimizer.step()
    moved = -weight.detach()
    before, after = (torch.linalg.svdvals(matrix(t)) for t in (gradient, moved))
    assert before.max() / before.min() > 5
    assert after.max() / after.min() < 1.8
    assert 0.2 * 0.7 < moved.square().mean().sqrt() < 0.2 * 1.2  # whatever the shape
    # the same directions, to far more digits than half precision has
    u, _, v = torch.linalg.svd(matrix(gradient), full_matrices=False)
    inner = u.T @ matrix(moved) @ v.T
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-4 * inner.abs().max()


# --------------------------------------------------------------------------------------------- kinds of steps


def test_draw(parts: SimpleNamespace, data: Path, tmp_path: Path) -> None:
    shares = {"prefix": 0.3, "delta": 0.4, "narrow": 0.25, "focus": 0.5, "focus_share": 0.8}
    config = settings(parts, data, tmp_path, **shares)
    rng = np.random.default_rng(2)
    drawn = [parts.train.draw(rng, config, SMALL, 8) for _ in range(2000)]
    top = SMALL.rate_points - 1
    points = torch.stack([d.point for d in drawn])
    assert points.shape == (2000, 8)
    assert points.min() >= 0
    assert 0.97 * top < points.max() < top
    assert (points < top / 2).float().mean().item() == pytest.approx(0.8 + 0.2 / 2, abs=0.02)
    assert {d.kept for d in drawn} == {1, 2, 3, 4}
    assert np.mean([d.kept < 4 for d in drawn]) == pytest.approx(0.3, abs=0.04)
    stepped = [d for d in drawn if d.delta]
    assert len(stepped) / 2000 == pytest.approx(0.7 * 0.4 * 16 / 17, abs=0.04)
    assert {d.kept for d in stepped} == {4}
    assert {8 * d.delta for d in stepped} == set(range(-8, 9)) - {0}
    assert {d.narrow for d in drawn} == {None, 0, 1}  # the full width learns always
    assert np.mean([d.narrow is not None for d in drawn]) == pytest.approx(0.25, abs=0.04)


def test_a_frozen_step_has_no_gradient(parts: SimpleNamespace, data: Path, tmp_path: Path) -> None:
    model, drawn = random_model(parts), parts.train.Draw(torch.tensor([0.5, 2.5]), len(SMALL.groups))
    for freeze, learns in (([], True), (["step"], False)):
        config = settings(parts, data, tmp_path, freeze=freeze)
        parts.train.learning_parts(model, config, True)
        for name, gradient in gradients(parts, model, config, drawn).items():
            if name.startswith("network.context.") and name.endswith("head.weight"):
                of_mu, of_step = gradient.chunk(2)
                assert (of_mu != 0).any()
                assert (of_step != 0).any() == learns


def gradients(parts: SimpleNamespace, model: Any, config: Any, drawn: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)  # the same noise
    model.zero_grad(set_to_none=True)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    parts.train.loss_of(model, x, drawn, config)[0].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_nothing_but_the_synthesis_learns_from_a_narrow_picture(
    parts: SimpleNamespace, data: Path, tmp_path: Path
) -> None:
    model, config = random_model(parts), settings(parts, data, tmp_path)
    plain = parts.train.Draw(torch.tensor([0.5, 2.5]), 3)
    alone, beside = (gradients(parts, model, config, d) for d in (plain, replace(plain, narrow=0)))
    assert set(alone) == set(beside)
    for name, gradient in alone.items():
        if name.startswith("network.g_s."):
            continue
        assert torch.equal(beside[name], gradient), name
    assert not torch.equal(alone["network.g_s.stem.weight"], beside["network.g_s.stem.weight"])
    # only from the narrow width's group, through its share of the rank, and its own conditioning
    stem, rank = (
        beside[f"network.g_s.{name}.weight"] - alone[f"network.g_s.{name}.weight"]
        for name in ("stem", "blocks_8.0.reduce")
    )
    assert stem[:, :8].abs().min() > 0
    assert stem[:, 8:].abs().max() == 0
    assert rank[:4].abs().min() > 0
    assert rank[4:].abs().max() == 0
    conditioning = beside["network.g_s.blocks_8.0.conditioning.scale"]
    assert conditioning[0].abs().max() > 0
    assert conditioning[1].abs().max() == 0
    assert conditioning[2].abs().max() > 0


def test_a_prefix_is_trained_at_a_rate_point_that_suits_it(
    parts: SimpleNamespace, data: Path, tmp_path: Path
) -> None:
    model, config = random_model(parts).eval(), settings(parts, data, tmp_path)
    drawn = parts.train.Draw(torch.tensor([0.5, 2.9]), 1)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    torch.manual_seed(5)
    loss, shown = parts.train.loss_of(model, x, drawn, config)
    torch.manual_seed(5)
    result = parts.loss.forward(model, x, drawn.point, groups=1)
    lmbda = SMALL.lmbda(torch.tensor([0.5, 0.75]))  # a quarter of the groups, a quarter of the range
    torch.testing.assert_close(loss, ((result.bpp + lmbda * result.mse) * (0.01 / lmbda).sqrt()).mean())
    assert shown["bpp"] == pytest.approx(result.bpp.mean().item())


WRITER = {"g_a", "h_a", "gain", "hyper_gain"}
READER = {"g_s", "h_s", "hyper_prior", "features", "context"}


def test_a_prefix_step_changes_nothing_of_the_writer(
    parts: SimpleNamespace, data: Path, trained: Path, tmp_path: Path
) -> None:
    """Not even by the momentum that earlier steps left."""
    out = copy_of(trained, tmp_path / "run")
    before = states(parts, out)
    parts.train.train(settings(parts, data, out, steps=2, prefix=1.0))
    changed = moved(before, states(parts, out))
    assert not changed & WRITER
    assert changed >= READER
    parts.train.train(settings(parts, data, out, steps=1, prefix=0.0))
    assert moved(before, states(parts, out)) >= WRITER | READER


def test_frozen_parts_stay(parts: SimpleNamespace, data: Path, trained: Path, tmp_path: Path) -> None:
    config = settings(parts, data, tmp_path, start=str(trained), steps=2, freeze=["g_a", "h_a", "h_s"])
    parts.train.train(replace(config, linear_lr=0.0), SMALL)
    start = parts.loss.TrainingModel(SMALL)
    parts.grow.grow(start, parts.train.load_checkpoint(trained)[1])
    before, after = start.state_dict(), states(parts, tmp_path)
    assert moved(before, after) & (WRITER | READER) == (WRITER | READER) - {"g_a", "h_a", "h_s"}
    assert torch.equal(before["network.g_s.klt.weight"], after["network.g_s.klt.weight"])


@pytest.mark.parametrize("mix", [{"narrow": 1.0}, {"prefix": 1.0}, {"delta": 1.0}])
def test_every_kind_of_mixed_step(
    parts: SimpleNamespace, data: Path, tmp_path: Path, mix: dict[str, float]
) -> None:
    parts.train.train(settings(parts, data, tmp_path, steps=3, **mix), SMALL)
    assert all(torch.isfinite(v).all() for v in states(parts, tmp_path).values())


# ------------------------------------------------------------------------------------------------- validation


def test_no_steps_only_validate(
    parts: SimpleNamespace, data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_of(trained, tmp_path / "run")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    same = parts.train.train(settings(parts, data, out, steps=0, valid=str(data), valid_pictures=1))
    for key, value in model_of(parts, trained).state_dict().items():
        assert torch.equal(same.state_dict()[key], value), key
    assert capsys.readouterr().out.count('"point"') == 7
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_validation(parts: SimpleNamespace, data: Path, trained: Path) -> None:
    pictures = parts.train.validation_pictures(data, 5, CPU)
    # the folder itself, without what lies below
    assert [tuple(p.shape) for p in pictures] == [(1, 3, 256, 320)]
    rows = parts.train.validate(model_of(parts, trained), pictures, [0.0, 1.5, 3.0], bf16=False)
    assert [row["point"] for row in rows] == [0.0, 1.5, 3.0]
    for row in rows:
        assert 0 < row["hyper"] < row["bpp"]
        assert 10 < row["score"] < 60
    assert rows[0]["bpp"] < rows[2]["bpp"]


def test_training_for_ms_ssim(
    parts: SimpleNamespace,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sides = {"crop": 176, "last_crop": 176, "steps": 2, "batch": 1}
    config = settings(parts, data, tmp_path, tune="ms-ssim", valid=str(data), valid_pictures=1, **sides)
    parts.train.train(config, SMALL)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(rows) == 7
    assert rows[-1]["score"] > rows[0]["score"] > 3
    monkeypatch.setattr(weights, "_FOLDERS", (tmp_path / "elsewhere",))
    checkpoint = str(tmp_path / "checkpoint.safetensors")
    parts.export.main([checkpoint, str(tmp_path / "model.safetensors"), "--valid", str(data)])
    card = (tmp_path / "model.md").read_text("utf-8")
    assert "estimated bytes on the validation pictures at equal MS-SSIM, and" in card
    assert "whole files, bpp | MS-SSIM, dB |" in card
    assert str(data) not in card


# ----------------------------------------------------------------------------------------------- command line


NUMBERS = "slices", "groups", "widths", "writer"


def test_command_line(
    parts: SimpleNamespace, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data", str(data), "--valid", str(data), "--out", str(tmp_path)]
    how = ["--steps", "1", "--batch", "2", "--crop", "64", "--last-crop", "64", "--no-compile"]
    small = json.loads(SMALL.to_json())
    changed = {key: small[key] for key in (*NUMBERS, "hyper_channels", "hyper_hidden")}
    parts.train.main([*where, *how, "--freeze", "g_a", "--network", json.dumps(changed)])
    network = parts.train.load_checkpoint(tmp_path / "checkpoint.safetensors")[0]
    assert network == replace(NetworkConfig(), **{key: getattr(SMALL, key) for key in changed})
    recipe = parts.train.load_recipe(tmp_path / "checkpoint.safetensors")
    assert (recipe["steps"], recipe["freeze"], recipe["compile"]) == (1, ["g_a"], False)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(rows) == 7
    assert {"point", "bpp", "hyper", "score"} == set(rows[0])


def test_every_option_has_a_sentence(
    parts: SimpleNamespace, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parts.train.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for entry in fields(parts.train.TrainConfig):
        assert f"--{entry.name.replace('_', '-')}" in said
        assert entry.metadata["sentence"] in said
    with pytest.raises(SystemExit):
        parts.train.main(["--data", str(data), "--tune", "ssim"])
    with pytest.raises(SystemExit):
        parts.train.main(["--steps", "1"])  # no data


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler hides it
def test_compiled_bits_are_the_same(
    parts: SimpleNamespace, data: Path, trained: Path, tmp_path: Path
) -> None:
    for name, compiled in (("plain", False), ("compiled", True)):
        out = copy_of(trained, tmp_path / name)
        parts.train.train(settings(parts, data, out, steps=1, compile=compiled))
    plain, compiled = (states(parts, tmp_path / name) for name in ("plain", "compiled"))
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-4)


# ----------------------------------------------------------------------------------------------------- export


@pytest.fixture
def exported(parts: SimpleNamespace, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a model that only this test has."""
    parts.export.export(trained, tmp_path / "models" / "tiny-1.safetensors")
    monkeypatch.setattr(weights, "_FOLDERS", (tmp_path / "models",))
    monkeypatch.setattr(weights, "_models", {})
    monkeypatch.setenv("NIC_DEVICE", "cpu")
    return "tiny-1"


def test_export_makes_a_model_that_the_codec_can_use(exported: str) -> None:
    pixels = picture(70, 90, 11)
    for quality in (0.0, 0.5, 1.0):
        data = codec.encode(pixels, quality=quality, model=exported, layers=3)
        assert container.read_info(data)[0].model == "tiny-1"
        decoded = codec.decode(data)
        assert decoded.shape == pixels.shape
        error = np.square(decoded.astype(float) - pixels).mean()
        assert error < np.square(pixels - pixels.mean((0, 1))).mean()
        assert codec.decode(data, layers=1).shape == pixels.shape


def test_export_keeps_what_matters_in_full(parts: SimpleNamespace, exported: str, trained: Path) -> None:
    model, origin = weights.load(exported), model_of(parts, trained).network
    for key, value in origin.state_dict().items():
        got = model.network.state_dict()[key]
        if value.dim() == 4:
            torch.testing.assert_close(got, value, rtol=2**-10, atol=1e-7)
        else:
            assert torch.equal(got, value), key
    assert max(model.integer_net.bits_used()) < 24
    assert len(model.hyper_prior.tables) == 40 * 8
    assert len(model.tables) == 48 * 7


def test_files_cost_what_training_counted(parts: SimpleNamespace, exported: str, trained: Path) -> None:
    # Streams against the float model's estimate: integers, tables, rows and half precision cost little.
    # The pictures are those of the training: the estimate's price for outliers is not that of an escape.
    model = model_of(parts, trained)
    for seed, quality in ((1, 0.5), (2, 0.9)):
        pixels = picture(256, 320, seed)[:192, :256]
        data = codec.encode(pixels, quality=quality, model=exported, layers=1, effort=0)
        streams = sum(len(s) for layer in container.parse(data).streams for s in layer)
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        point = torch.tensor([round(quality * 65535) * (SMALL.rate_points - 1) / 65536])
        with torch.no_grad():
            result = parts.loss.forward(model, x, point, hard=True)
        estimate = result.bpp.item() * 192 * 256 / 8
        assert streams == pytest.approx(estimate, rel=0.04, abs=8)
        psnr = 10 * math.log10(255**2 / np.square(codec.decode(data).astype(float) - pixels).mean())
        assert psnr == pytest.approx(10 * math.log10(255**2 / result.mse.item()), abs=0.1)


def test_what_integers_cost(
    parts: SimpleNamespace,
    exported: str,
    trained: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts.export, "CARD_QUALITIES", (0.5, 0.9))
    real = parts.export.coded(weights.find(exported), data, "psnr")
    counted = parts.export.estimated(trained, data)
    assert counted[0] < counted[1]
    assert real[0].score < real[1].score
    for estimate, found in zip(counted, real, strict=True):
        assert found.streams == pytest.approx(estimate, rel=0.04)
        assert found.streams < found.files
        assert found.score > 15
    refitted = [replace(found, streams=0.99 * found.streams) for found in real]
    *_, row = parts.export.describe_rate(counted, real, refitted, "PSNR, dB")
    quality, estimate, streams, change, shipped, gain, files, score = row.strip("| ").split(" | ")
    assert (quality, gain) == ("0.9", "-1.00 %")
    wanted = (counted[1], real[1].streams, 0.99 * real[1].streams, real[1].files)
    assert tuple(map(float, (estimate, streams, shipped, files))) == pytest.approx(wanted, abs=1e-4)
    assert float(change.removesuffix(" %")) == pytest.approx(100 * (wanted[1] / wanted[0] - 1), abs=0.01)
    assert float(score) == pytest.approx(real[1].score, abs=0.01)


def test_export_command_writes_the_card(
    parts: SimpleNamespace, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, card = tmp_path / "model.safetensors", tmp_path / "model.md"
    card.write_text(f"# By hand\n\n{parts.export.BEGIN}\nold\n{parts.export.END}\n\nMore by hand.\n", "utf-8")
    parts.export.main([str(trained), str(out)])
    model = weights.read(out, "model", CPU)
    said = capsys.readouterr().out
    size = out.stat().st_size
    assert said.startswith(f"`model.safetensors`, {size} bytes, hash `{model.hash.hex()}`.\n")
    written = card.read_text("utf-8")
    assert written.startswith("# By hand\n")
    assert written.endswith("\n\nMore by hand.\n")
    assert said.strip() in written
    assert "\nold\n" not in written


def test_export_command_measures_the_file_that_it_wrote(
    parts: SimpleNamespace, trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_FOLDERS", (tmp_path / "elsewhere",))
    parts.export.main([str(trained), str(tmp_path / "model.safetensors"), "--valid", str(data)])

    card = (tmp_path / "model.md").read_text("utf-8")
    assert "by itself (at most 0.5% more bytes)" in card
    limits = weights.read(tmp_path / "model.safetensors", "model", CPU).width_limits
    assert limits[-1] == 65535
    assert len(limits) == len(SMALL.widths)


def test_training_curve_against_the_first(
    data: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tools import training_curve

    monkeypatch.setattr(training_curve, "POINTS", {"psnr": (0, 1, 2, 3)})
    monkeypatch.setattr(training_curve, "JUDGES", {"psnr": ["psnr"]})
    painted = tmp_path / "curve.png"
    arguments = [
        "training_curve.py",
        data,
        trained,
        trained,
        "--tune",
        "psnr",
        "--pictures",
        "1",
        "--plot",
        painted,
    ]
    monkeypatch.setattr("sys.argv", list(map(str, arguments)))
    training_curve.main()
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert all("+0.0 / " in row for row in rows)
    assert painted.read_bytes().startswith(b"\x89PNG")


def test_training_curve_knows_how_many_bytes_more() -> None:
    from tools.training_curve import changes

    first = [{"psnr": [(0.1, 25.0), (0.3, 30.0), (0.9, 35.0), (2.0, 40.0)]}]
    tenth_more = [{"psnr": [(1.1 * rate, score) for rate, score in first[0]["psnr"]]}]
    assert changes(tenth_more, first)["psnr"] == pytest.approx([10.0] * 3)


def test_widths_that_cost_little_are_taken_by_themselves(parts: SimpleNamespace) -> None:
    costs = np.array([[0.1, 0, 0, 0, 0], [-0.1, 0.005, 0.006, 0, 0], [0, 0, np.nan, 0, 0], [0, 0, 0, 0, 0]])
    assert parts.export.width_limits(costs) == [-1, 16383, 16383, 65535]


def test_half_a_file_is_not_left_behind(parts: SimpleNamespace, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(trained.read_bytes()[:2000])
    with pytest.raises(Exception, match=r"."):
        parts.export.export(tmp_path / "broken.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_network_that_cannot_be_exact_is_not_exported(
    parts: SimpleNamespace, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillow_nic.integer_net.EXACT", 1 << 10)
    with pytest.raises(WeightsError, match="integer network"):
        parts.export.export(trained, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
