"""Training on a tiny network and made-up pictures: it learns, resumes, and exports what the codec can use.

Needs the ``train`` extra: ``pytest -m training tests/test_training.py``. What the extra brings is imported
within tests, so that this file can be collected without it.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tiny_model import CONFIG, random_network

from pillow_nic import codec, container, weights
from pillow_nic.errors import WeightsError

pytestmark = [
    pytest.mark.training,
    # compressai compiles parts of itself with torch.jit on import, which new versions of torch deprecate.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
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
    from pillow_nic.training import data, export, loss, revive, train

    return SimpleNamespace(data=data, export=export, loss=loss, revive=revive, train=train)


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
    fields: dict[str, Any] = {
        "data": [str(data)],
        "out": str(out),
        "steps": 20,
        "batch": 4,
        "crop": 64,
        "last_crop": 64,
    }
    fields |= {"warmup": 3, "lr": 3e-3, "ema": 0.7, "bf16": False, "seed": 5}
    return parts.train.TrainConfig(**(fields | changes))


@pytest.fixture(scope="module")
def trained(parts: SimpleNamespace, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of twenty steps from the KLT, mixed steps among them."""
    out = tmp_path_factory.mktemp("run")
    parts.train.train(settings(parts, data, out), SMALL)
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


def test_a_forward_pass_and_its_gradients(parts: SimpleNamespace) -> None:
    model = parts.loss.TrainingModel(SMALL)
    model.network.load_state_dict(random_network(SMALL).state_dict())
    x = torch.rand(2, 3, 64, 80)
    result = parts.loss.forward(model, x, torch.tensor([0.4, 2.6]))
    assert result.bpp.shape == result.mse.shape == result.hyper_bpp.shape == (2,)
    assert result.x_hat.shape == x.shape
    assert (result.bpp > result.hyper_bpp).all()
    (result.bpp.sum() + result.mse.sum()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None and not name.endswith("quantiles")]
    assert idle == []


@pytest.mark.parametrize("width", [0, 1, 2])
def test_widths_prefixes_and_steps(parts: SimpleNamespace, width: int) -> None:
    model = parts.loss.TrainingModel(SMALL)
    model.network.load_state_dict(random_network(SMALL).state_dict())
    x, position = torch.rand(1, 3, 64, 64), torch.tensor([1.5])
    with torch.no_grad():
        full = parts.loss.forward(model, x, position, width=width, hard=True)
        first = parts.loss.forward(model, x, position, width=width, groups=1, hard=True)
        coarse = parts.loss.forward(model, x, position, width=width, delta=1.0, hard=True)
    assert full.x_hat.shape == x.shape
    if width:
        assert first.bpp < full.bpp
    torch.testing.assert_close(first.hyper_bpp, full.hyper_bpp)
    assert coarse.bpp < full.bpp
    torch.testing.assert_close(full.x_hat * 255, (full.x_hat * 255).round(), atol=1e-3, rtol=0)


def test_structural_distortion(parts: SimpleNamespace) -> None:
    x = torch.from_numpy(picture(192, 192, 6)).permute(2, 0, 1)[None].float() / 255
    shifted, blurred = x + 0.04, torch.nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False)

    def distortion(x_hat: torch.Tensor) -> tuple[float, float]:
        mse = (x_hat - x).square().mean((1, 2, 3)) * 255**2
        zero = torch.zeros(1)
        result = parts.loss.Result(zero, zero, mse, x_hat)
        return parts.loss.structural_distortion(x, result).item(), mse.item()

    assert distortion(x)[0] == pytest.approx(0, abs=1e-3)
    # A shift of all colours is an error that MS-SSIM hardly sees, and a blur one that it sees well.
    (shift, shift_mse), (blur, blur_mse) = distortion(shifted), distortion(blurred)
    assert shift == pytest.approx(parts.loss.MSE_SHARE * shift_mse, rel=0.3)
    assert blur / blur_mse > 3 * shift / shift_mse


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
    config = settings(parts, data, tmp_path, mixed_from=2.0, lr=4e-3, warmup=10, steps=40)
    pictures = parts.data.Pictures([data], CPU)
    x = pictures.crops(np.random.default_rng(8), 8, 128)
    position = torch.linspace(0, SMALL.rate_points - 1, 8)

    def loss(model: Any) -> float:
        with torch.no_grad():
            result = parts.loss.forward(model.eval(), x, position, hard=True)
        lmbda = SMALL.lmbda(position)
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
    # the moving average is what is read, and not the last step's weights
    assert torch.equal(state["network.g_a.stem.weight"], average)
    assert not torch.equal(average, last)
    assert sorted(p.name for p in trained.parent.iterdir()) == ["checkpoint.safetensors"]


def test_resume_goes_on_from_the_average(
    parts: SimpleNamespace, data: Path, trained: Path, tmp_path: Path
) -> None:
    config = settings(parts, data, tmp_path, resume=str(trained), steps=2, lr=0.0)
    resumed = parts.train.train(config, None)
    before = model_of(parts, trained)
    for key, value in before.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    network, _, done = parts.train.load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert network == SMALL
    assert (done["steps"], done["crops"]) == (22, 88)


def test_same_seed_gives_the_same_weights(parts: SimpleNamespace, data: Path, tmp_path: Path) -> None:
    states = []
    for name in ("one", "two"):
        parts.train.train(settings(parts, data, tmp_path / name, steps=2), SMALL)
        states.append(parts.train.load_checkpoint(tmp_path / name / "checkpoint.safetensors")[1])
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


@pytest.mark.parametrize("optimizer", ["adam", "soap", "muon"])
def test_every_optimizer_moves_every_kind_of_parameter(
    parts: SimpleNamespace, data: Path, tmp_path: Path, optimizer: str
) -> None:
    config = settings(parts, data, tmp_path, optimizer=optimizer, steps=3, mixed_from=2.0)
    parts.train.train(config, SMALL)
    after = parts.train.load_checkpoint(tmp_path / "checkpoint.safetensors")[1]
    assert all(torch.isfinite(v).all() for v in after.values())
    torch.manual_seed(config.seed)
    start = parts.loss.TrainingModel(SMALL).state_dict()
    moved = {name for name, value in start.items() if not torch.equal(after[name], value)}
    assert any(name.startswith("hyper_prior.") for name in moved)
    parameters = ("g_a.head.weight", "g_s.head.bias", "h_a.conv2.weight", "context.step_nets.0.head.weight")
    for name in (*parameters, "gain.log2_gain", "hyper_gain.log2_gain", "g_a.klt.weight"):
        assert f"network.{name}" in moved


def test_discount_of_the_hyper_latent_ends(parts: SimpleNamespace, data: Path, tmp_path: Path) -> None:
    config = settings(parts, data, tmp_path, hyper_weight=0.1, hyper_part=0.4)
    discounts = [parts.train.hyper_discount(config, part) for part in (0.0, 0.2, 0.4, 1.0)]
    assert discounts == pytest.approx([0.9, 0.45, 0.0, 0.0])
    plain = settings(parts, data, tmp_path)
    assert parts.train.hyper_discount(plain, 0.0) == 0
    losses = []
    for chosen in (config, plain):
        states = parts.train.train(replace(chosen, steps=2), SMALL).state_dict()
        losses.append(states["network.h_a.conv4.weight"])
    assert not torch.equal(*losses)


def test_dead_channels_are_revived(parts: SimpleNamespace, data: Path, trained: Path) -> None:
    model = model_of(parts, trained)
    network, z = model.network, SMALL.hyper_channels
    dead = list(range(2, z))
    with torch.no_grad():
        network.h_a.conv4.weight[:2] *= 100
        network.h_a.conv4.weight[dead] *= 1e-3
        network.h_a.conv4.bias[dead] *= 1e-3
    x = parts.data.Pictures([data], CPU).crops(np.random.default_rng(3), 8, 128)
    middle = torch.full((8,), float(SMALL.rate_points // 2))

    def code() -> tuple[Any, torch.Tensor]:
        with torch.no_grad():
            latent = network.h_a(network.g_a(x, middle), middle)
            return parts.loss.forward(model, x, middle, hard=True), latent

    before, _ = code()
    assert parts.revive.revive(model, x) == len(dead)
    after, latent = code()
    torch.testing.assert_close(after.x_hat, before.x_hat)  # nothing has changed,
    assert (after.hyper_bpp > before.hyper_bpp).all()  # but that the channels say something
    torch.testing.assert_close(latent[:, dead].std((0, 2, 3)), torch.ones(len(dead)), rtol=1e-3, atol=0)
    assert parts.revive.revive(model, x) == 0


def test_no_steps_only_validate(
    parts: SimpleNamespace, data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"steps": 0, "resume": str(trained), "valid": str(data), "valid_pictures": 1}
    same = parts.train.train(settings(parts, data, tmp_path, **few)).state_dict()
    for key, value in model_of(parts, trained).state_dict().items():
        torch.testing.assert_close(same[key], value, rtol=0, atol=0)
    assert capsys.readouterr().out.count('"position"') == 7


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
    assert all(0 < row["ms_ssim"] < 1 for row in rows)
    assert rows[-1]["ms_ssim"] > rows[0]["ms_ssim"]
    monkeypatch.setattr(weights, "_FOLDERS", (tmp_path / "elsewhere",))
    checkpoint = str(tmp_path / "checkpoint.safetensors")
    parts.export.main([checkpoint, str(tmp_path / "model.safetensors"), "--valid", str(data)])
    card = (tmp_path / "model.md").read_text("utf-8")
    assert "estimated bytes at equal MS-SSIM on" in card
    assert "whole files, bpp | MS-SSIM, dB |" in card
    with pytest.raises(SystemExit):
        parts.train.main(["--data", str(data), "--tune", "ssim"])


def test_every_kind_of_mixed_step(parts: SimpleNamespace, data: Path, tmp_path: Path) -> None:
    mixes = (
        {"mixed_width": 1.0},
        {"mixed_width": 0.0, "mixed_prefix": 1.0},
        {"mixed_width": 0.0, "mixed_prefix": 0.0, "mixed_delta": 1.0},
    )
    for mix in mixes:
        parts.train.train(settings(parts, data, tmp_path, steps=3, mixed_from=0.0, **mix), SMALL)
        _, state, _ = parts.train.load_checkpoint(tmp_path / "checkpoint.safetensors")
        assert all(torch.isfinite(v).all() for v in state.values())


def test_validation(parts: SimpleNamespace, data: Path, trained: Path) -> None:
    pictures = parts.train.validation_pictures(data, 5, CPU)
    assert [tuple(p.shape) for p in pictures] == [
        (1, 3, 256, 320)
    ]  # the folder itself, without what lies below
    rows = parts.train.validate(model_of(parts, trained), pictures, [0.0, 1.5, 3.0], bf16=False)
    assert [row["position"] for row in rows] == [0.0, 1.5, 3.0]
    for row in rows:
        assert 0 < row["hyper"] < row["bpp"]
        assert 10 < row["psnr"] < 60
    assert rows[0]["bpp"] < rows[2]["bpp"]


def test_command_line(
    parts: SimpleNamespace, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data", str(data), "--valid", str(data), "--out", str(tmp_path)]
    how = ["--steps", "1", "--batch", "2", "--crop", "64", "--last-crop", "64", "--no-bf16"]
    what = '{"hyper_channels": 4, "hyper_hidden": 8, "context_hidden": 8}'
    parts.train.main([*where, *how, "--network", what])
    network = parts.train.load_checkpoint(tmp_path / "checkpoint.safetensors")[0]
    assert (network.hyper_channels, network.context_hidden) == (4, 8)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(rows) == 7
    assert {"position", "bpp", "hyper", "psnr"} == set(rows[0])


def test_command_line_sets_groups_and_widths(parts: SimpleNamespace, data: Path, tmp_path: Path) -> None:
    what = json.dumps({k: v for k, v in json.loads(SMALL.to_json()).items() if k in ("groups", "widths")})
    parts.train.main(["--data", str(data), "--out", str(tmp_path), "--steps", "1", "--network", what])
    network = parts.train.load_checkpoint(tmp_path / "checkpoint.safetensors")[0]
    assert (network.groups, network.widths) == (SMALL.groups, SMALL.widths)


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
    assert len(model.hyper_tables) == SMALL.hyper_channels
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
        position = torch.tensor([round(quality * 65535) * (SMALL.rate_points - 1) / 65536])
        with torch.no_grad():
            result = parts.loss.forward(model, x, position, hard=True)
        estimate = result.bpp.item() * 192 * 256 / 8
        assert streams == pytest.approx(estimate, rel=0.04, abs=8)
        psnr = 10 * math.log10(255**2 / np.square(codec.decode(data).astype(float) - pixels).mean())
        assert psnr == pytest.approx(10 * math.log10(255**2 / result.mse.item()), abs=0.1)


def test_what_integers_cost(parts: SimpleNamespace, exported: str, trained: Path, data: Path) -> None:
    rows = parts.export.integer_cost(weights.find(exported), trained, data, (0.5, 0.9))
    assert [row.split(" | ")[0] for row in rows] == ["| 0.5", "| 0.9"]
    for row in rows:
        estimate, streams, change, files, psnr = row.strip("| ").split(" | ")[1:]
        assert float(estimate) > 0
        assert float(streams) < float(files)
        assert float(change.removesuffix(" %")) == pytest.approx(
            100 * (float(streams) / float(estimate) - 1), abs=0.1
        )
        assert float(psnr) > 15


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
