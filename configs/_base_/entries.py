"""What the suites at one budget compare: all of one recipe; nets and searches are named there."""

entries = [
    dict(name="slowfast"),
    dict(name="x3d"),
    dict(name="tsm"),
    dict(name="auto_tsnet_uniform", note="uniform, not searched"),
    dict(
        name="auto_tsnet_random",
        note="random architectures of equal GMACs",
        net="auto_tsnet",
        search="auto_tsnet",
        variants=3,
    ),
    dict(name="auto_tsnet", note="searched", search="auto_tsnet"),
    dict(name="mvit", optional=True),
    dict(name="movinet", optional=True),
    dict(name="assemblenet", note="the authors' graph", optional=True),
    dict(
        name="assemblenet_random",
        note="random, same space and GMACs",
        net="assemblenet_searched",
        search="assemblenet",
        variants=3,
        optional=True,
    ),
    dict(name="assemblenet_searched", note="AssembleNet-style, searched", search="assemblenet", optional=True),
    dict(
        name="pvnas_random",
        note="random, same space and GMACs",
        net="pvnas",
        search="pvnas",
        variants=3,
        optional=True,
    ),
    dict(name="pvnas", note="PV-NAS-style, searched", search="pvnas", optional=True),
]
