"""Models on Something-Something-V2 as their authors trained and tested them, each with its own recipe and protocol."""

suite = dict(
    dataset="Something-Something-V2",
    layout="ssv2",
    root="SSV2_ROOT",
    classes=174,
    published="Something-Something-V2",
)

entries = [
    dict(name="slowfast_8x8_r50_ssv2", config="../native/slowfast_8x8_r50_ssv2.py"),
    dict(name="slowfast_16x8_r50_ssv2", config="../native/slowfast_16x8_r50_ssv2.py"),
    dict(name="tsm_r50_8f_ssv2", config="../native/tsm_r50_8f_ssv2.py"),
    dict(name="tsm_r50_16f_ssv2", config="../native/tsm_r50_16f_ssv2.py"),
    dict(name="tsm_r101_8f_ssv2", config="../native/tsm_r101_8f_ssv2.py"),
]

# Rows of published.csv.
literature = dict(
    slowfast_8x8_r50_ssv2=("SlowFast (PyTorchVideo)", "R50 8x8"),
    slowfast_16x8_r50_ssv2=("SlowFast", "R50 16x8 standard schedule"),
    tsm_r50_8f_ssv2=("TSM (mmaction2 re-train)", "TSM ResNet50"),
    tsm_r50_16f_ssv2=("TSM (mmaction2 re-train)", "TSM ResNet50"),
    tsm_r101_8f_ssv2=("TSM (mmaction2 re-train)", "TSM ResNet101"),
)
