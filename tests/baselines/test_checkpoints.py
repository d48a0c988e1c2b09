"""Weights of elsewhere: same logits, same bits there and back, and refusals."""

import hashlib
import json
import os
import pickle
import re
import sys

import pytest
import torch
from mmaction.models.backbones.mvit import MViT as MMActionMViT
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from pytorchvideo.models.x3d import create_x3d
from safetensors import safe_open
from torch import nn
from torchvision.models import resnet50

from baselines import VARIANTS, checkpoints
from baselines.checkpoints import MAPS, CheckpointError, convert
from baselines.peers import PEERS
from baselines.tsm import temporal_shift
from reproduce.cli import main

CLASSES = 7
NORMS = (nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm)


@pytest.fixture(autouse=True)
def scope_of_mmaction():
    """mmaction2's heads look for their losses in the default scope, which a Runner of another test may have set."""
    with DefaultScope.overwrite_default_scope("mmaction"):
        yield


def randomised(model):
    """A model in eval mode whose every tensor does something, so that a swapped or missing one shows in the logits."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 or "pos_embed" in name or "cls_token" in name:
            nn.init.normal_(parameter, std=0.1)
    for module in model.modules():
        if isinstance(module, NORMS):
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            module.num_batches_tracked.fill_(3)
    model.eval()
    return model


class AuthorsTSM(nn.Module):
    """The authors' TSM under the names of their files: torchvision's ResNet, its first convolutions wrapped."""

    def __init__(self):
        super().__init__()
        self.module = nn.Module()
        self.module.base_model = net = resnet50()
        net.fc = nn.Identity()
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            for block in stage:
                wrapped = nn.Module()
                wrapped.net = block.conv1
                wrapped.forward = lambda x, conv=block.conv1: conv(temporal_shift(x, 8))
                block.conv1 = wrapped
        self.module.new_fc = nn.Linear(2048, CLASSES)

    def forward(self, clips):
        frames = clips.transpose(1, 2).flatten(0, 1)
        return self.module.new_fc(self.module.base_model(frames)).unflatten(0, (-1, 8)).mean(1)


# source, variant: frames, other arguments of ours. The crop is 64.
SOURCES = {
    ("pytorchvideo", "x3d_xs"): (4, {}),
    ("pytorchvideo", "x3d_s"): (13, {}),
    ("pytorchvideo", "x3d_m"): (16, {}),
    ("pytorchvideo", "x3d_l"): (4, {}),
    ("pytorchvideo", "slow_8x8_r50"): (4, {}),
    ("pytorchvideo", "slowfast_4x16_r50"): (16, {}),
    ("pytorchvideo", "slowfast_8x8_r50"): (8, {}),
    ("pytorchvideo", "slowfast_8x8_r101"): (8, {}),
    ("pytorchvideo", "slowfast_16x8_r101_50_50"): (8, {}),
    ("pytorchvideo", "mvit_b_16x4"): (4, {}),
    ("mmaction2", "x3d_m"): (4, {}),
    ("mmaction2", "slow_8x8_r50"): (4, {}),
    ("mmaction2", "slowfast_8x8_r50"): (8, {"slow_ends": False}),
    ("mmaction2", "slowfast_4x16_r50_mmaction2"): (16, {}),
    ("mmaction2", "tsm_r50_8f"): (8, {}),
    ("mmaction2", "tsm_r101_8f_ssv2"): (8, {}),
    ("mmaction2", "tsm_mobilenetv2_8f"): (8, {}),
    ("mit-han-lab", "tsm_r50_8f"): (8, {}),
}
assert PEERS.keys() < SOURCES.keys()


def reference_of(source, variant):
    """The source's own network, and its frames."""
    frames, _ = SOURCES[source, variant]
    if source == "mit-han-lab":
        return AuthorsTSM(), frames
    return PEERS[source, variant](num_classes=CLASSES, frames=frames, crop=64), frames


def family(variant):
    return VARIANTS[variant][0].__name__


def build(variant, **arguments):
    function, native = VARIANTS[variant]
    return function(**native | {"num_classes": CLASSES, "crop": 64} | arguments).eval()


def marked(source, variant):
    """A parameter set; the deep nets are slow, and only say more of the same."""
    return pytest.param(source, variant, id=f"{source}-{variant}", marks=[pytest.mark.slow] * ("r101" in variant))


@pytest.mark.parametrize(("source", "variant"), [marked(*key) for key in SOURCES])
def test_same_weights_same_logits_and_the_same_bits_there_and_back(source, variant):
    torch.manual_seed(0)
    network, frames = reference_of(source, variant)
    reference, arguments = randomised(network), SOURCES[source, variant][1]
    theirs = reference.state_dict()
    names = MAPS[source][family(variant)]
    ours = names.ours(theirs)
    model = build(variant, frames=frames, **arguments)
    model.load_state_dict(ours, strict=True)
    # In double precision a wrong eps is seen too.
    clips = torch.randn(1, 3, frames, 64, 64, dtype=torch.double)
    with torch.no_grad():
        logits, expected = model.double()(clips), reference.double()(clips)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-8)

    back = names.theirs(ours)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in theirs.items())


def test_mvit_gives_mmaction2s_features():
    """mmaction2's MViT with v1's options; what it has no option for is set: one position embedding, pooled queries."""
    torch.manual_seed(0)
    arch = {"embed_dims": 96, "num_layers": 16, "num_heads": 1, "downscale_indices": [1, 3, 14]}
    options = dict.fromkeys(("rel_pos_embed", "residual_pooling", "dim_mul_in_attention"), False)
    reference = MMActionMViT(arch, 64, 4, use_abs_pos_embed=True, out_scales=[3], **options).eval()
    ours = randomised(build("mvit_b_16x4", frames=4)).double()
    for block, own in zip(reference.blocks, ours.blocks, strict=True):
        if isinstance(own.attn.pool_q, nn.Identity):
            block.attn.pool_q, block.attn.norm_q = nn.Identity(), nn.Identity()
        for name in ("norm_q", "norm_k", "norm_v"):
            getattr(block.attn, name).eps = 1e-5
    state = {key.replace("patch_embed", "patch_embed.projection"): value for key, value in ours.state_dict().items()}
    state |= {f"norm3.{leaf}": state.pop(f"norm.{leaf}") for leaf in ("weight", "bias")}
    space, time, first = (state.pop(f"pos_embed_{name}") for name in ("spatial", "temporal", "class"))
    state["pos_embed"] = torch.cat((first, (space[:, None] + time[:, :, None]).flatten(1, 2)), 1)
    classifier = {leaf: state.pop(f"fc.{leaf}") for leaf in ("weight", "bias")}
    reference.double().load_state_dict(state, strict=True)
    clips = torch.randn(1, 3, 4, 64, 64, dtype=torch.double)
    with torch.no_grad():
        logits = nn.functional.linear(reference(clips)[-1][1], **classifier)
        torch.testing.assert_close(ours(clips), logits, rtol=0, atol=1e-8)


def as_pyslowfast(key):
    """pytorchvideo's name of a tensor in PySlowFast, spelled out apart from the tables under test.

    PySlowFast cannot be installed here: these are the names that its modules give
    (slowfast/models/{stem,resnet,head}_helper.py, video_model_builder.py), stages counted from 1 with the stem.
    """
    key = re.sub(r"^blocks\.(\d)\.multipathway_fusion", lambda m: f"s{int(m[1]) + 1}_fuse", key)
    key = re.sub(r"^blocks\.(\d)\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)", r"s\1+.pathway\2_res\3", key)
    key = re.sub(r"^blocks\.(\d)\.res_blocks\.(\d+)", r"s\1+.pathway0_res\2", key)
    key = re.sub(r"^s(\d)\+", lambda m: f"s{int(m[1]) + 1}", key)
    key = re.sub(r"^blocks\.0\.multipathway_blocks\.(\d)", r"s1.pathway\1_stem", key)
    for old, new in {
        "blocks.0.conv.conv_t.": "s1.pathway0_stem.conv_xy.",  # pytorchvideo swaps the two names
        "blocks.0.conv.conv_xy.": "s1.pathway0_stem.conv.",
        "blocks.0.": "s1.pathway0_stem.",
        "blocks.5.pool.pre_conv": "head.conv_5",
        "blocks.5.pool.pre_norm": "head.conv_5_bn",
        "blocks.5.pool.post_conv": "head.lin_5",
        "blocks.5.proj": "head.projection",
        "blocks.6.proj": "head.projection",
        "norm_b.1.block.0": "se.fc1",
        "norm_b.1.block.2": "se.fc2",
        "norm_b.0": "norm_b",
        "branch1_conv": "branch1",
        "branch1_norm": "branch1_bn",
        "conv_fast_to_slow": "conv_f2s",
    }.items():
        key = key.replace(old, new)
    key = re.sub(r"branch2\.conv_([abc])", r"branch2.\1", key)
    key = re.sub(r"branch2\.norm_([abc])", r"branch2.\1_bn", key)
    return key.replace(".norm.", ".bn.")


@pytest.mark.parametrize("variant", ["x3d_m", "slow_8x8_r50", "slowfast_8x8_r50"])
def test_pyslowfasts_names_give_the_tensors_of_pytorchvideos(variant):
    theirs = reference_of("pytorchvideo", variant)[0].state_dict()
    expected, _, made_up = convert(theirs, variant, CLASSES)
    state = {as_pyslowfast(key): tensor for key, tensor in theirs.items()}
    shortcut = "layer1.0.downsample.bn"  # PySlowFast has it
    state |= {name.replace(shortcut, "s2.pathway0_res0.branch1_bn"): expected[name] for name in made_up}
    ours, source, made_up = convert(state, variant, CLASSES)
    assert (source, made_up) == ("pyslowfast", [])
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())
    back = MAPS["pyslowfast"][family(variant)].theirs(ours)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("joined", [False, True])
def test_pyslowfasts_mvit_has_query_key_and_value_apart_or_in_one(joined):
    theirs = PEERS["pytorchvideo", "mvit_b_16x4"](num_classes=CLASSES, frames=16, crop=224).state_dict()
    expected, _, _ = convert(theirs, "mvit_b_16x4", CLASSES)
    state = {key.removeprefix("cls_positional_encoding."): tensor for key, tensor in theirs.items()}
    for old, new in {
        "patch_embed.patch_model": "patch_embed.proj",
        "norm_embed": "norm",
        "head.proj": "head.projection",
    }.items():
        state |= {f"{new}.{leaf}": state.pop(f"{old}.{leaf}") for leaf in ("weight", "bias")}
    if joined:
        for b in range(16):
            for leaf in ("weight", "bias"):
                state[f"blocks.{b}.attn.qkv.{leaf}"] = torch.cat(
                    [state.pop(f"blocks.{b}.attn.{x}.{leaf}") for x in "qkv"]
                )
    ours, source, made_up = convert(state, "mvit_b_16x4", CLASSES)
    assert (source, made_up) == ("pyslowfast", [])
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())


@pytest.fixture(scope="module")
def x3d_m():
    torch.manual_seed(0)
    return randomised(create_x3d(input_clip_length=4, input_crop_size=64, head_activation=None))


def save(path, state, **more):
    torch.save({"model_state": state, **more}, path)
    return path


def cli(monkeypatch, capsys, *arguments):
    """Error line, or nothing, and what was printed."""
    monkeypatch.setattr(sys, "argv", ["reproduce", *map(str, arguments)])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr()
    return printed.err.strip(), printed.out


def test_a_file_becomes_a_model_in_two_steps_and_a_file_of_mmaction2(x3d_m, tmp_path, monkeypatch, capsys):
    file = save(tmp_path / "X3D_M.pyth", x3d_m.state_dict(), epoch=300, cfg="TRAIN: ...")
    out = tmp_path / "x3d_m.safetensors"
    code, text = cli(monkeypatch, capsys, "import-weights", file, "--as", "x3d_m", "--out", out)
    assert not code
    assert "tensors of pytorchvideo's x3d_m, 400 classes" in text
    model = checkpoints.load(out)
    clips = torch.randn(1, 3, 4, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(clips), x3d_m(clips), rtol=0, atol=1e-4)

    with safe_open(out, "pt") as opened:
        header = opened.metadata()
    assert header["source_file"] == "X3D_M.pyth"
    assert header["source_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (header["source"], header["variant"], header["map_version"]) == ("pytorchvideo", "x3d_m", "1")
    assert json.loads(header["unused"]) == ["cfg", "epoch"]
    assert header["input"] == "RGB, mean 0.45, std 0.225"
    assert {name.rsplit(".", 1)[0] for name in json.loads(header["made_up"])} == {"layer1.0.downsample.bn"}

    code, _ = cli(monkeypatch, capsys, "export-weights", out, "--out", tmp_path / "x3d_m.pth")
    assert not code
    there = PEERS["mmaction2", "x3d_m"](num_classes=400, frames=16, crop=224)
    there.load_state_dict(torch.load(tmp_path / "x3d_m.pth", weights_only=True)["state_dict"], strict=True)
    there.eval()
    with torch.no_grad():
        torch.testing.assert_close(there(clips), x3d_m(clips), rtol=0, atol=1e-4)


def test_the_log_history_of_a_training_is_passed_over(x3d_m, tmp_path):
    hub = MessageHub.get_instance("test_the_log_history")
    hub.update_scalar("train/loss", 0.5)
    hub.update_scalar("train/loss", torch.tensor(0.25))
    file = save(tmp_path / "epoch_1.pth", x3d_m.state_dict(), message_hub=hub.state_dict())
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)
    state, header = checkpoints.read(file, "x3d_m")
    assert torch.equal(state["fc.weight"], x3d_m.state_dict()["blocks.5.proj.weight"])
    assert json.loads(header["unused"]) == ["message_hub"]
    with pytest.raises(pickle.UnpicklingError):  # and is not for others
        torch.load(file, weights_only=True)


class Bomb:
    """Runs code when unpickled."""

    def __reduce__(self):
        """What pickle executes."""
        return os.system, ("touch exploded",)


def broken(x3d_m, fault, path):
    """A file with a fault."""
    state = dict(x3d_m.state_dict())
    if fault == "code":
        return save(path, state, bomb=Bomb())
    if fault == "plain pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif fault == "old pickle":
        path.write_bytes(pickle.dumps(Bomb(), protocol=2))
    elif fault == "truncated":
        save(path, state)
        path.write_bytes(path.read_bytes()[:-1000])
    elif fault == "no state":
        torch.save({"weights": 1}, path)
    elif fault == "no names":
        torch.save({"state_dict": [torch.zeros(1)]}, path)
    elif fault == "other model":
        save(path, PEERS["mmaction2", "tsm_mobilenetv2_8f"](num_classes=400, frames=8, crop=64).backbone.state_dict())
    elif fault == "deeper":
        save(path, create_x3d(input_clip_length=4, input_crop_size=64, depth_factor=5.0).state_dict())
    elif fault == "missing":
        del state["blocks.2.res_blocks.0.branch2.conv_a.weight"]
        save(path, state)
    elif fault == "one too many":
        save(path, state | {"blocks.1.res_blocks.0.branch3.weight": torch.zeros(1)})
    elif fault == "classes":
        save(path, state | {"blocks.5.proj.weight": torch.zeros(600, 2048), "blocks.5.proj.bias": torch.zeros(600)})
    elif fault == "shape":
        save(path, state | {"blocks.5.pool.post_conv.weight": torch.zeros(1024, 432, 1, 1, 1)})
    return path


FAULTS = {
    "absent": r"does not exist",
    "code": r"holds more than tensors \(\w+\.system\) and is refused",
    "plain pickle": r"is no archive of tensors, or a damaged one and is refused",
    "old pickle": r"holds more than tensors \(\w+\.system\) and is refused",
    "truncated": r"cannot be read \(.*\); is it complete\?",
    "no state": r"has no state dict",
    "no names": r"has no state dict",
    "other model": r"not x3d_m: .* missing, no place for .*; it looks like no model known here, its names are conv1",
    "deeper": r"not x3d_m: no place for layer1\.3\..* and \d+ more; it looks like x3d_l of pytorchvideo",
    "missing": r"not x3d_m: layer2\.0\.conv1\.conv\.weight missing; it looks like x3d_xs or x3d_s or x3d_m of pytorchv",
    "one too many": r"not x3d_m: no place for blocks\.1\.res_blocks\.0\.branch3\.weight; it looks like x3d_xs or",
    "classes": r"600 classes, x3d_m has 400; if that is meant, say --classes 600",
    "shape": r"not x3d_m: lin5\.weight of other shapes, \(1024, 432, 1, 1, 1\) for \(2048, 432, 1, 1, 1\)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_does_not_fit_is_one_line_and_leaves_nothing(x3d_m, fault, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    file = broken(x3d_m, fault, tmp_path / "net.pyth")
    before = sorted(tmp_path.iterdir())
    line, _ = cli(monkeypatch, capsys, "import-weights", file, "--as", "x3d_m")
    assert re.search(FAULTS[fault], line)
    assert str(file) in line
    assert "\n" not in line
    assert sorted(tmp_path.iterdir()) == before


def test_the_file_of_another_model_is_named():
    state = reference_of("mmaction2", "tsm_mobilenetv2_8f")[0].state_dict()
    with pytest.raises(CheckpointError, match=r"not tsm_r50_8f: .*; it looks like tsm_mobilenetv2_8f of mmaction2"):
        convert(state, "tsm_r50_8f")


def test_mmaction2s_slowfast_without_lateral_norms_is_not_the_authors():
    state = reference_of("mmaction2", "slowfast_4x16_r50_mmaction2")[0].state_dict()
    with pytest.raises(
        CheckpointError, match=r"laterals\.0\.bn\.weight.* it looks like slowfast_4x16_r50_mmaction2 of mm"
    ):
        convert(state, "slowfast_4x16_r50", CLASSES)


def test_counters_may_be_missing_and_other_classes_meant(x3d_m):
    state = {key: tensor for key, tensor in x3d_m.state_dict().items() if "num_batches" not in key}
    ours, _, made_up = convert(state, "x3d_m")
    assert sum(name.endswith("num_batches_tracked") for name in made_up) == len(made_up) - 4
    assert all(ours[name] == 0 for name in made_up if name.endswith("num_batches_tracked"))
    state |= {"blocks.5.proj.weight": torch.zeros(600, 2048), "blocks.5.proj.bias": torch.zeros(600)}
    assert len(convert(state, "x3d_m", 600)[0]["fc.bias"]) == 600


def test_a_norm_that_does_something_has_no_place_in_pytorchvideos_x3d(x3d_m):
    ours, _, _ = convert(x3d_m.state_dict(), "x3d_m")
    ours["layer1.0.downsample.bn.bias"] = torch.ones(24)
    with pytest.raises(CheckpointError, match=r"layer1\.0\.downsample\.bn\.bias is not that of an identity"):
        MAPS["pytorchvideo"]["x3d"].theirs(ours)


def test_two_tensors_of_one_name_and_parts_that_miss_are_errors():
    names = MAPS["pyslowfast"]["mvit"]
    q, k, v = ({f"blocks.0.attn.{x}.bias": torch.zeros(2)} for x in "qkv")
    assert len(names.ours(q | k | v)["blocks.0.attn.qkv.bias"]) == 6
    with pytest.raises(KeyError, match=r"not all of blocks\.0\.attn\.q\.bias"):
        names.ours(q | v)
    with pytest.raises(KeyError, match="a second tensor for blocks"):
        names.ours(q | {"blocks.0.attn.qkv.bias": torch.zeros(6)})
    with pytest.raises(CheckpointError, match=r"not mvit_b_16x4: Sizes of tensors must match"):
        convert({f"blocks.0.attn.{x}.weight": torch.zeros(2, i) for i, x in enumerate("qkv", 2)}, "mvit_b_16x4")


def test_only_its_own_files_are_loaded(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="does not say which variant it is"):
        checkpoints.load(tmp_path / "plain.safetensors")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "plain.safetensors").read_bytes()[:20])
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.load(tmp_path / "half.safetensors")
    with pytest.raises(CheckpointError, match="mmaction2 has no mvit_b_16x4; it has x3d"):
        checkpoints.to_mmaction2({}, "mvit_b_16x4")
    with pytest.raises(ValueError, match="unknown variant 'x3d_xl'; known: slowfast_4x16_r50"):
        checkpoints.read("any.pth", "x3d_xl")
