"""In mmaction2's and mmengine's own tools: our networks, our search, and theirs on our data."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mmaction
import pytest
import torch
from mmaction.registry import MODELS as THEIRS
from mmaction.structures import ActionDataSample
from mmengine.registry import DefaultScope
from safetensors.torch import save_file

from autotsnet.architecture import TwoStreamArchitecture
from autotsnet.mmaction import Backbone, ClipPreprocessor
from autotsnet.models import TwoStreamNet
from autotsnet.models.families import uniform_architecture
from autotsnet.registry import MODELS
from autotsnet.space import space_of

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = ROOT / "configs" / "mmaction2"
TOOLS = Path(mmaction.__file__).parent / ".mim" / "tools"
TINY = uniform_architecture("tiny")
CLIPS = 2, 3, TINY.macro.frames, TINY.macro.crop, TINY.macro.crop
COMMON = ["train_dataloader.batch_size=2", "train_dataloader.num_workers=0"]


@pytest.fixture(scope="module")
def videos(tiny, kinetics_root, tmp_path_factory) -> Path:
    """A folder of three lists of videos, as mmaction2 reads them; it also keeps a found architecture."""
    _, train, val = tiny
    folder = tmp_path_factory.mktemp("lists")
    parts = dict(train=train.videos[0:16:2], held_out=train.videos[1:16:2], val=val.videos[:2])
    for name, part in parts.items():
        for i, video in enumerate(part):  # mmaction2's lists are split at spaces
            (folder / f"{name}{i}.mp4").symlink_to(kinetics_root / video.path)
        lines = (f"{name}{i}.mp4 {video.label}\n" for i, video in enumerate(part))
        (folder / f"{name}.txt").write_text("".join(lines))
    TINY.save(folder / "architecture.json")
    return folder


def stock(tool: str, config: str, videos: Path, *options: str, **variables: object) -> str:
    """Run one of mmaction2's tools on an example; what it printed."""
    done = subprocess.run(
        [sys.executable, TOOLS / tool, CONFIGS / config, *options],
        capture_output=True,
        text=True,
        cwd=videos,
        env=os.environ | dict(VIDEOS="", PYTHONPATH=str(ROOT)) | {k: str(v) for k, v in variables.items()},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_mmaction2_trains_and_tests_a_found_architecture(videos, tmp_path):
    variables = dict(VIDEOS=videos, ARCHITECTURE=videos / "architecture.json", SPACE="tiny")
    options = [*COMMON, "val_dataloader.num_workers=0", "test_dataloader.num_workers=0", "train_cfg.max_epochs=1"]
    options += ["model.backbone.out_channels=144", "model.cls_head.in_channels=144"]
    common = ["--work-dir", tmp_path, "--cfg-options", *options]
    stock("train.py", "train.py", videos, "--seed", "0", *common, **variables)
    checkpoint = tmp_path / "epoch_1.pth"
    state = torch.load(checkpoint, weights_only=True)
    assert state["meta"]["iter"] == 4
    assert set(state["state_dict"]) >= {
        f"backbone.net.{name}" for name in Backbone(TwoStreamNet(TINY, 1)).net.state_dict()
    }
    out = stock("test.py", "train.py", videos, checkpoint, *common, **variables)
    assert "acc/top1" in out


def test_mmengine_searches_on_a_data_set_of_mmaction2(videos, tmp_path):
    changes = dict(
        warmup=1, steps=1, type_steps=1, strategy="random", batch=2, finalists=2, judge_batches=1, sub_batch=1
    )
    options = [f"train_cfg.options.{key}={value}" for key, value in changes.items()]
    options += [*COMMON, "train_cfg.held_out.batch_size=2", "train_cfg.held_out.num_workers=0"]
    common = ["--seed", "0", "--work-dir", tmp_path, "--cfg-options", *options]
    common += ["default_hooks.checkpoint.interval=4", "default_hooks.checkpoint.max_keep_ckpts=-1"]
    stock("train.py", "search.py", videos, *common, VIDEOS=videos, SPACE="tiny")
    found = TwoStreamArchitecture.load(tmp_path / "architecture.json")
    assert space_of("tiny").decode(space_of("tiny").encode(found)) == found
    assert torch.load(tmp_path / "iter_4.pth", weights_only=True)["loop"]["stage"] == 2  # slow and fast are done
    (tmp_path / "architecture.json").unlink()
    stock(
        "train.py",
        "search.py",
        videos,
        "--resume",
        tmp_path / "iter_4.pth",
        *common,
        VIDEOS=videos,
        SPACE="tiny",
    )
    again = TwoStreamArchitecture.load(tmp_path / "architecture.json")
    for stream in ("slow", "fast"):  # of which attention is decided later
        decided = [[(g.channels, g.blocks) for g in getattr(a, stream)] for a in (found, again)]
        assert decided[0] == decided[1]


def build(config: dict):
    """As mmaction2's Runner does, under its scope."""
    with DefaultScope.overwrite_default_scope("mmaction"):
        return THEIRS.build(config)


def test_a_backbone_with_mmaction2s_head_is_the_network():
    wide = replace(TINY, macro=replace(TINY.macro, head=2048))  # as of the presets from s on, and of mmaction2's head
    net = TwoStreamNet(wide, 5).eval()
    head = dict(type="X3DHead", in_channels=144, num_classes=5, fc1_bias=True)
    model = build(
        dict(
            type="Recognizer3D",
            backbone=dict(type="autotsnet.Backbone", net=dict(type="auto_tsnet", architecture=wide.to_dict())),
            cls_head=head,
        )
    ).eval()
    assert model.backbone.out_channels == 144
    model.backbone.net.load_state_dict(
        {k: v for k, v in net.state_dict().items() if k.partition(".")[0] not in net.head}
    )
    model.cls_head.fc1.load_state_dict(net.hidden.state_dict())
    model.cls_head.fc2.load_state_dict(net.classifier.state_dict())
    clips = torch.randn(CLIPS)
    with torch.no_grad():
        theirs, _ = model.extract_feat(clips[:, None], stage="head")
        torch.testing.assert_close(theirs, net(clips), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", [TINY.alone("slow"), TINY.alone("fast")], ids=["slow", "fast"])
def test_one_stream_is_a_backbone_too(architecture):
    backbone = Backbone(TwoStreamNet(architecture, 1))
    assert backbone(torch.randn(CLIPS)).shape[:2] == (2, backbone.out_channels)


@pytest.mark.parametrize("kind", ["x3d", "slow", "slowfast", "tsm", "tsm_mobilenetv2"])
def test_the_mean_of_features_is_what_the_head_of_a_baseline_gets(kind):
    sizes = dict(
        x3d=dict(width=8), slow=dict(channels=8), slowfast=dict(slow_channels=8, alpha=4), tsm=dict(base_channels=8)
    )
    net = MODELS.build(dict(type=kind, num_classes=5, frames=8, **sizes.get(kind, {}))).eval()
    seen, (first, *_) = [], net.head
    getattr(net, first).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    clips = torch.randn(CLIPS)
    with torch.no_grad():
        net(clips)
        pooled = net.features(clips)
        assert pooled.shape[1] == Backbone(net).out_channels
    frames = 8 if kind.startswith("tsm") else 1
    torch.testing.assert_close(
        pooled.mean((2, 3, 4)), seen[0].unflatten(0, (2, frames)).mean(1).flatten(1), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["checkpoint", "safetensors"])
def test_a_backbone_starts_from_weights(kind, tmp_path):
    net = TwoStreamNet(TINY, 7)
    if kind == "checkpoint":
        path = tmp_path / "last.pth"
        torch.save(dict(state_dict={f"net.{k}": v for k, v in net.state_dict().items()}), path)
    else:
        path = tmp_path / "net.safetensors"
        save_file(net.state_dict(), path)
    clips = torch.randn(CLIPS)
    with torch.no_grad():
        assert torch.equal(Backbone(TwoStreamNet(TINY, 1), path).eval()(clips), net.eval().features(clips))
    with pytest.raises(
        ValueError, match=rf"{path.name} does not hold the weights of this network: 118 tensors .* fusions.0"
    ):
        Backbone(TwoStreamNet(TINY.alone("slow"), 1), path)


def test_what_cannot_be_a_backbone_is_refused():
    with pytest.raises(ValueError, match=r"Linear has no features\(\).*autotsnet.Recognizer"):
        Backbone(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="have 144 channels, not 96; change out_channels, and in_channels"):
        Backbone(TwoStreamNet(TINY, 1), out_channels=96)


def samples(*labels: int) -> list[ActionDataSample]:
    return [ActionDataSample().set_gt_labels(label) for label in labels]


def test_a_whole_network_on_mmaction2s_data():
    model = build(
        dict(type="autotsnet.Recognizer", net=dict(type="auto_tsnet", architecture=TINY), num_classes=5)
    ).eval()
    pixels = torch.randint(256, (2, 3, *CLIPS[1:]), dtype=torch.uint8)  # two videos of three views
    data = model.data_preprocessor(dict(inputs=list(pixels), data_samples=samples(1, 4)), True)
    with torch.no_grad():
        logits = model.net((pixels.flatten(0, 1).float() - 114.75) / 57.375)
        predicted = model(**data, mode="predict")
        scores = logits.softmax(1).unflatten(0, (2, 3)).mean(1)
        torch.testing.assert_close(torch.stack([s.pred_scores.item for s in predicted]), scores)
        one = model.data_preprocessor(dict(inputs=list(pixels[:, :1]), data_samples=samples(1, 4)), True)
        losses = model(**one, mode="loss")
    expected = torch.nn.functional.cross_entropy(logits[::3], torch.tensor([1, 4]))
    torch.testing.assert_close(losses["loss"], expected)
    assert [k for k in losses if "loss" in k] == ["loss"]  # mmengine adds them up


def test_a_supernet_runs_the_subnet_it_is_told():
    model = build(dict(type="autotsnet.Recognizer", net=dict(type="SuperNet", space="tiny"), num_classes=5)).eval()
    clips = torch.randn(CLIPS)
    with torch.no_grad():
        alone = model(clips[:, None], architecture=TINY.alone("slow"))
        assert not torch.equal(alone, model(clips[:, None], architecture=TINY))
        torch.testing.assert_close(alone, model.net.extract(TINY.alone("slow"))(clips), atol=1e-5, rtol=1e-4)


def test_mmaction2s_recognizers_take_our_clips():
    clips = torch.randint(256, (2, 1, 8, 16, 16, 3), dtype=torch.uint8)
    data = ClipPreprocessor()(dict(clips=clips, label=torch.tensor([3, 1]), id=["a", "b"]), True)
    assert data["inputs"].shape == (2, 1, 3, 8, 16, 16)
    torch.testing.assert_close(data["inputs"][1, 0, 2, 5], (clips[1, 0, 5, :, :, 2].float() - 114.75) / 57.375)
    assert [int(sample.gt_labels.item) for sample in data["data_samples"]] == [3, 1]


@pytest.mark.parametrize(
    ("config", "inputs", "outputs"),
    [
        (dict(type="MBConv3D", in_channels=8, out_channels=6, stride=2), [(1, 8, 4, 8, 8)], [(1, 6, 4, 4, 4)]),
        (
            dict(type="TSFusion", kind="concat", slow_channels=8, fast_channels=4, alpha=4),
            [(1, 8, 2, 4, 4), (1, 4, 8, 4, 4)],
            [(1, 16, 2, 4, 4), (1, 4, 8, 4, 4)],
        ),
        (dict(type="Attention", kind="glore", channels=8), [(1, 8, 4, 4, 4)], [(1, 8, 4, 4, 4)]),
        (dict(type="TwoStreamNet", architecture=TINY.to_dict(), num_classes=3), [(1, *CLIPS[1:])], [(1, 3)]),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_layers_are_built_from_plain_configs(config, inputs, outputs):
    module = build(config | dict(type=f"autotsnet.{config['type']}"))
    found = module(*(torch.randn(shape) for shape in inputs))
    assert [tuple(x.shape) for x in (found if isinstance(found, tuple) else (found,))] == outputs


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="kind 'dense' is not one of none, concat"):
        MODELS.build(dict(type="TSFusion", kind="dense", slow_channels=8, fast_channels=4, alpha=4))


def test_a_supernets_space_is_a_name_or_a_config():
    space = MODELS.build(dict(type="SuperNet", space=dict(type="tiny", frames=4, crop=32), num_classes=5)).space
    assert (space.macro.frames, space.macro.crop) == (4, 32)
    assert MODELS.build(dict(type="SuperNet", space="tiny", num_classes=5)).space == space_of("tiny")
    with pytest.raises(ValueError, match="unknown search space 'xl'"):
        MODELS.build(dict(type="SuperNet", space="xl", num_classes=5))


def test_the_examples_state_the_presets():
    text = (CONFIGS / "search.py").read_text()
    for name in ("tiny", "s", "m", "l"):
        space = space_of(name)
        assert f"{name}=({space.macro.frames}, {space.macro.crop}, {space.target})" in text
