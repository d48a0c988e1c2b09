"""Models on Kinetics-400 as their authors trained and tested them, each with its own recipe and protocol."""

suite = dict(
    dataset="Kinetics-400",
    layout="kinetics",
    root="KINETICS_ROOT",
    classes=400,
    published="Kinetics-400",
)

# Rows of published.csv.
literature = dict(
    slow_4x16_r50=("Slow", "R50 4x16"),
    slow_8x8_r50=("Slow", "R50 8x8"),
    slowfast_4x16_r50=("SlowFast", "R50 4x16"),
    slowfast_8x8_r50=("SlowFast", "R50 8x8"),
    slowfast_8x8_r101=("SlowFast (PyTorchVideo)", "R101 8x8"),
    slowfast_16x8_r101_50_50=("SlowFast (PyTorchVideo)", "R101_50_50 16x8"),
    x3d_xs=("X3D", "X3D-XS"),
    x3d_s=("X3D", "X3D-S"),
    x3d_m=("X3D", "X3D-M"),
    x3d_l=("X3D", "X3D-L"),
    tsm_r50_8f=("TSM (mmaction2 re-train)", "TSM ResNet50 50e"),
    tsm_r50_16f=("TSM (mmaction2 re-train)", "TSM ResNet50 50e"),
    mvit_b_16x4=("MViTv1", "MViT-B 16x4"),
    mvit_b_32x3=("MViTv1", "MViT-B 32x3"),
    movinet_a0=("MoViNet", "A0-Base"),
    movinet_a1=("MoViNet", "A1-Base"),
    movinet_a2=("MoViNet", "A2-Base"),
    movinet_a3=("MoViNet", "A3-Base"),
    movinet_a4=("MoViNet", "A4-Base"),
    movinet_a5=("MoViNet", "A5-Base"),
)

entries = [dict(name=name, config=f"../native/{name}.py") for name in literature]
