"""Search with mmengine's Runner on a data set of mmaction2, by mmaction2's own `tools/train.py`.

VIDEOS is a folder, in which `train.txt` and `held_out.txt` give a video and its label per line, no video in both: the
shared weights learn from the first, architectures are judged on the second. SPACE is one of the presets. The found
architecture is written to `architecture.json` in the work folder; train.py, beside this file, trains it.
"""

custom_imports = dict(imports=["autotsnet.mmaction"], allow_failed_imports=False)
default_scope = "mmaction"
videos = "{{$VIDEOS:data/kinetics400}}"
space = "{{$SPACE:m}}"  # on other clips: dict(type="m", frames=8, crop=160)
frames, crop, gmacs = dict(tiny=(8, 64, 0.03), s=(16, 160, 2.0), m=(16, 224, 4.7), l=(16, 312, 19.4))[space]
num_classes, batch = 400, 64

pipeline = [
    dict(type="DecordInit"),
    dict(type="SampleFrames", clip_len=frames, frame_interval=2, num_clips=1),
    dict(type="DecordDecode"),
    dict(type="RandomResizedCrop"),
    dict(type="Resize", scale=(crop, crop), keep_ratio=False),
    dict(type="Flip", flip_ratio=0.5),
    dict(type="FormatShape", input_format="NCTHW"),
    dict(type="PackActionInputs"),
]
train_dataloader = dict(
    batch_size=batch,
    num_workers=4,
    sampler=dict(type="InfiniteSampler"),
    dataset=dict(
        type="VideoDataset",
        ann_file=f"{videos}/train.txt",
        data_prefix=dict(video=videos),
        pipeline=pipeline,
    ),
)
held_out = dict(train_dataloader, dataset=dict(train_dataloader["dataset"], ann_file=f"{videos}/held_out.txt"))

model = dict(type="autotsnet.Recognizer", net=dict(type="SuperNet", space=space, fair=True), num_classes=num_classes)
train_cfg = dict(
    type="autotsnet.ProgressiveSearchLoop",
    space=space,
    num_classes=num_classes,
    gmacs=gmacs,
    held_out=held_out,
    options=dict(strategy="fpnas", warmup=10_000, steps=20_000, type_steps=8_000, sub_batch=16),
)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=5e-5))
default_hooks = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1000, max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
custom_hooks = [dict(type="autotsnet.PlainCheckpointHook"), dict(type="autotsnet.ArchitectureHook")]
