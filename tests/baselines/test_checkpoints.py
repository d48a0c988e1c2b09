import pytest
import torch
from mmaction.models.backbones.resnet_tsm import ResNetTSM
from pytorchvideo.models.slowfast import create_slowfast
from pytorchvideo.models.x3d import create_x3d
from torch import nn

from baselines.checkpoints import pytorchvideo_slowfast, pytorchvideo_x3d
from baselines.slowfast import slowfast
from baselines.tsm import tsm
from baselines.x3d import x3d

CLASSES = 7


def randomised(model: nn.Module) -> nn.Module:
    """A model in eval mode whose norms do something, so that a swapped or missing one shows in the logits."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.fixture
def reference_x3d():
    torch.manual_seed(0)
    return randomised(
        create_x3d(input_clip_length=4, input_crop_size=64, model_num_class=CLASSES, head_activation=None)
    )


def test_x3d_m_gives_pytorchvideos_logits(reference_x3d):
    model = x3d(num_classes=CLASSES).eval()
    model.load_state_dict(pytorchvideo_x3d(reference_x3d.state_dict()), strict=True)
    clips = torch.randn(2, 3, 4, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(clips), reference_x3d(clips), rtol=1e-4, atol=1e-4)


def test_slowfast_8x8_r50_gives_pytorchvideos_logits():
    torch.manual_seed(0)
    reference = randomised(create_slowfast(model_num_class=CLASSES, head_pool_kernel_sizes=((4, 2, 2), (16, 2, 2))))
    model = slowfast(num_classes=CLASSES, frames=16, crop=64, alpha=4, lateral_kernel=7).eval()
    model.load_state_dict(pytorchvideo_slowfast(reference.state_dict()), strict=True)
    clips = torch.randn(1, 3, 16, 64, 64)
    slow = clips[:, :, torch.linspace(0, 15, 4).long()]
    with torch.no_grad():
        torch.testing.assert_close(model(clips), reference([slow, clips.clone()]), rtol=1e-4, atol=1e-4)


def test_tsm_r50_gives_mmaction2s_features():
    torch.manual_seed(0)
    reference = ResNetTSM(50, pretrained=None, pretrained2d=False)
    randomised(reference)  # its eval() returns None
    model = tsm(num_classes=CLASSES).eval()
    missing, unexpected = model.load_state_dict(reference.state_dict(), strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    clips = torch.randn(2, 3, 8, 64, 64)
    with torch.no_grad():
        features = reference(clips.transpose(1, 2).flatten(0, 1)).mean((2, 3))  # BT C
        logits = model.fc(features).unflatten(0, (2, 8)).mean(1)
        torch.testing.assert_close(model(clips), logits, rtol=1e-4, atol=1e-4)


def test_unknown_names_are_errors(reference_x3d):
    state = reference_x3d.state_dict() | {"blocks.1.res_blocks.0.branch3.weight": torch.zeros(1)}
    with pytest.raises(KeyError, match=r"branch3\.weight: not a name"):
        pytorchvideo_x3d(state)


def test_a_missing_tensor_fails_the_strict_load(reference_x3d):
    state = reference_x3d.state_dict()
    del state["blocks.2.res_blocks.0.branch2.conv_a.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*layer2\.0\.conv1\.conv\.weight"):
        x3d(num_classes=CLASSES).load_state_dict(pytorchvideo_x3d(state), strict=True)
