"""An mmaction2 config for `python -m reproduce compare`: R(2+1)D; the solver scales `base_channels` of its backbone.

Only `model` is read, here or in the files of `_base_`: data, schedule and normalisation are the suite's, and training
starts from scratch. `knobs = dict(base_channels=(4, 512, 0.125))` (lowest, highest, step) has the same effect; other
arguments of a backbone are named in this way. `knobs = dict()` is for a model of one size.
"""

model = dict(
    type="Recognizer3D",
    backbone=dict(
        type="ResNet2Plus1d",
        depth=18,
        stage_blocks=(1, 1, 1, 1),
        pretrained=None,
        pretrained2d=False,
        norm_eval=False,
        conv_cfg=dict(type="Conv2plus1d"),
        norm_cfg=dict(type="BN3d", requires_grad=True, eps=1e-3),
        conv1_kernel=(3, 7, 7),
        conv1_stride_t=1,
        pool1_stride_t=1,
        inflate=(1, 1, 1, 1),
        spatial_strides=(1, 2, 2, 2),
        temporal_strides=(1, 2, 2, 2),
        zero_init_residual=False,
    ),
    cls_head=dict(type="I3DHead", num_classes=400, in_channels=512, spatial_type="avg", dropout_ratio=0.5),
)
