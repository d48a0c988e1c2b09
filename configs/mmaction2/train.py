"""Train a found architecture with mmaction2's own `tools/train.py` and `tools/test.py`.

The network is a backbone of mmaction2's Recognizer3D, with a head, data set, pipeline and schedule of mmaction2.
ARCHITECTURE is the file that a search has written, such as search.py beside this file; VIDEOS is a folder, in which
`train.txt` and `val.txt` give a video and its label per line. Any network of `baselines` that has `features()` can
take the place of `auto_tsnet`: `dict(type="x3d")`, with "baselines" among the imports.
"""

custom_imports = dict(imports=["autotsnet.mmaction"], allow_failed_imports=False)
default_scope = "mmaction"
videos = "{{$VIDEOS:data/kinetics400}}"
architecture = "{{$ARCHITECTURE:work_dirs/search/architecture.json}}"
channels = 544  # of the last block groups of both streams; the error for a wrong number names the right one
frames, crop = dict(tiny=(8, 64), s=(16, 160), m=(16, 224), l=(16, 312))["{{$SPACE:m}}"]
num_classes, batch = 400, 32

model = dict(
    type="Recognizer3D",
    backbone=dict(
        type="autotsnet.Backbone", net=dict(type="auto_tsnet", architecture=architecture), out_channels=channels
    ),
    cls_head=dict(type="I3DHead", in_channels=channels, num_classes=num_classes, average_clips="prob"),
    data_preprocessor=dict(type="ActionDataPreprocessor", mean=[114.75] * 3, std=[57.375] * 3, format_shape="NCTHW"),
)

sample = dict(type="SampleFrames", clip_len=frames, frame_interval=2, num_clips=1)
train_pipeline = [
    dict(type="DecordInit"),
    sample,
    dict(type="DecordDecode"),
    dict(type="RandomResizedCrop"),
    dict(type="Resize", scale=(crop, crop), keep_ratio=False),
    dict(type="Flip", flip_ratio=0.5),
    dict(type="FormatShape", input_format="NCTHW"),
    dict(type="PackActionInputs"),
]
test_pipeline = [
    dict(type="DecordInit"),
    dict(sample, num_clips=10, test_mode=True),
    dict(type="DecordDecode"),
    dict(type="Resize", scale=(-1, crop)),
    dict(type="CenterCrop", crop_size=crop),
    dict(type="FormatShape", input_format="NCTHW"),
    dict(type="PackActionInputs"),
]
train_dataloader = dict(
    batch_size=batch,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="VideoDataset",
        ann_file=f"{videos}/train.txt",
        data_prefix=dict(video=videos),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="VideoDataset",
        ann_file=f"{videos}/val.txt",
        data_prefix=dict(video=videos),
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type="AccMetric")

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=100, val_interval=10)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=5e-5), clip_grad=dict(max_norm=40))
param_scheduler = dict(type="CosineAnnealingLR", T_max=100, convert_to_iter_based=True)
custom_hooks = [dict(type="autotsnet.PlainCheckpointHook")]  # checkpoints that `--resume` and `tools/test.py` can read
