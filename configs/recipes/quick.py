"""Quick recipe: the embedded videos on a laptop CPU, a minute or two per model.

AdamW because it learns fast at the start: in so few steps SGD at 0.02 reached less than half of its accuracy, and AdamW
at 2e-3 or 1e-2 less than at 5e-3 (X3D on synthetic-ssv2: 27, 30 and 40 %). No dropout: 450 steps do not overfit.
"""

from mmengine.optim import OptimWrapper
from torch.optim import AdamW

from autotsnet.models import auto_tsnet, auto_tsnet_uniform, auto_x3d
from baselines.assemblenet import assemblenet
from baselines.e3d import e3d
from baselines.evanet import evanet
from baselines.movinet import movinet
from baselines.mvit import mvit
from baselines.pvnas import pvnas
from baselines.slowfast import slowfast
from baselines.tiny_video_net import tiny_video_net
from baselines.tsm import tsm
from baselines.x3d import x3d

epochs = 3
batch = 16  # clips per step, all devices together
warmup = 0.1  # share of the steps with a linearly rising rate; cosine to zero after that
threads = 1  # of a training and a test on a CPU: another number rounds sums differently
workers = 1
label_smoothing = 0.0
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=5e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),  # batch norm without weight decay
    clip_grad=dict(max_norm=5.0),
)
precise_bn = 0  # batches to recalibrate batch norm with at the end
ema = None  # or a momentum, 0.0002
checkpoint = 100  # steps between checkpoints at the most; at least every five minutes

nets = dict(
    slowfast=dict(type=slowfast, depth=50, blocks=(1, 1, 1, 1), alpha=4, dropout=0.0),
    x3d=dict(type=x3d, blocks=(1, 1, 2, 1), head_width=256, dropout=0.0),
    # Layers of a few channels on clips of 48 pixels: a quarter of the channels shifts, and the second stage keeps its
    # resolution. With an eighth, the seed decides whether so short a training learns the direction of time.
    tsm=dict(type=tsm, depth=50, blocks=(1, 2, 2, 1), strides=(1, 1, 2, 2), shift_div=4, dropout=0.0),
    auto_tsnet_uniform=dict(type=auto_tsnet_uniform, space="tiny", dropout=0.0),
    auto_tsnet=dict(type=auto_tsnet, dropout=0.0),
    # A transformer from scratch needs longer: after these 450 steps it is still at chance on synthetic-kinetics
    # (n = 400), at a learning rate of 5e-3 (12.5 %) as at 1e-3 (12.0 %) and 3e-4 (14.8 %).
    mvit=dict(type=mvit, depth=7, downscale=(2, 5), kv_stride=4, drop_path=0.0, dropout=0.0),
    movinet=dict(type=movinet, head_width=256, drop_path=0.0, dropout=0.0),
    assemblenet=dict(type=assemblenet, modules=(1, 2, 2, 1), flow_iterations=20, dropout=0.0),
    assemblenet_searched=dict(
        type=assemblenet, modules=(1, 2, 2, 1), flow_iterations=20, dropout=0.0, learn_connections=True
    ),
    pvnas=dict(type=pvnas, blocks=(1, 2, 2, 1), strides=(1, 1, 2, 2), dropout=0.0),
    tiny_video_net=dict(type=tiny_video_net, network="tvn_4", repeats=(2, 1, 1), dropout=0.0),  # made for 8 frames
    tiny_video_net_searched=dict(type=tiny_video_net, dropout=0.0),
    e3d=dict(type=e3d, blocks=(1, 1, 2, 2, 1), hidden=256, dropout=0.0),
    e3d_searched=dict(type=e3d, hidden=256, dropout=0.0),
    auto_x3d=dict(type=auto_x3d, dropout=0.0),
    evanet_a=dict(type=evanet, structures="a", repeats=(1, 2, 2, 1), dropout=0.0),
    evanet_b=dict(type=evanet, structures="b", repeats=(1, 2, 2, 1), dropout=0.0),
    evanet=dict(type=evanet, dropout=0.0),
)

# The same networks with units: what they cost is taken from the widths. Maps of 3×3 have no half, so that OctConv ends
# there; SlowFast's fast pathway has two or three channels.
nets.update(
    x3d_oct=dict(nets["x3d"], transforms=[dict(type="octconv", alpha=0.25, inside=["layer1", "layer2"])]),
    slowfast_oct=dict(
        nets["slowfast"],
        transforms=[dict(type="octconv", alpha=0.25, inside=["slow_path.layer1", "slow_path.layer2"])],
    ),
    tsm_oct=dict(nets["tsm"], transforms=[dict(type="octconv", alpha=0.25)]),
    auto_tsnet_oct=dict(nets["auto_tsnet"], transforms=[dict(type="octconv", alpha=0.25)]),
    x3d_glore=dict(nets["x3d"], transforms=[dict(type="glore", after=["layer2.0", "layer3.1"])]),
    slowfast_glore=dict(
        nets["slowfast"], transforms=[dict(type="glore", after=["slow_path.layer2.0", "slow_path.layer3.0"])]
    ),
    tsm_glore=dict(nets["tsm"], transforms=[dict(type="glore", after=["layer2.1", "layer3.1"])]),
)

# What `python -m reproduce tune` tries, as many trials for every entry; the first is the recipe as it stands.
tuning = dict(
    trials=8,
    shares=(1 / 3, 1),  # of the epochs: the best third of the trials goes on
    space={
        "optim_wrapper.optimizer.lr": dict(low=1.25e-3, high=2e-2, log=True),
        "optim_wrapper.optimizer.weight_decay": dict(low=0.01, high=0.1, log=True),
        "warmup": dict(low=0.05, high=0.3),
    },
    # Networks by name, as their authors scale them; the width is solved for each. A searched entry has its own.
    structure=dict(
        tsm=[dict(strides=(1, 2, 2, 2)), dict(blocks=(1, 1, 1, 1)), dict(blocks=(2, 2, 2, 2))],
        x3d=[dict(blocks=(1, 1, 1, 1)), dict(blocks=(1, 2, 2, 1)), dict(blocks=(1, 2, 4, 2))],
        slowfast=[dict(alpha=2), dict(alpha=8), dict(blocks=(1, 2, 2, 1))],
        mvit=[dict(kv_stride=2), dict(depth=4, downscale=(1, 3)), dict(depth=10, downscale=(3, 7))],
    ),
)

searches = dict(
    # Shared weights learn at a constant rate, since later stages add new ones.
    auto_tsnet=dict(
        method="auto_tsnet",
        space="tiny",
        fair=False,  # fair channel selection
        strategy="fpnas",
        options=dict(warmup=360, steps=120, type_steps=70),  # warm-up is cheap, untrained weights rank nothing
        fpnas=dict(lr=0.1),  # a short search needs a large step, see FPNASOptions
        warmup=0.03,
        checkpoint=50,
    ),
    # One stream, searched with the same means, all at once for as many steps as both streams; fair, as its authors say.
    auto_x3d=dict(
        method="supernet",
        space="x3d_tiny",
        fair=True,
        strategy="fpnas",
        options=dict(warmup=360, steps=120),
        fpnas=dict(lr=0.1),
        warmup=0.03,
        checkpoint=50,
    ),
    # ``connections``: the dense graph is trained once and its weak connections pruned, as AssembleNet++ does.
    # ``evolution``, as AssembleNet: python -m reproduce search ssv2 --entry assemblenet_searched --strategy evolution
    assemblenet=dict(
        method="assemblenet",
        strategy="connections",
        options=dict(
            keep=0.35,  # share of the connections, as in AssembleNet-50
            evaluations=24,  # from here on for evolution: number of trained graphs
            population=8,
            tournament=3,
            epochs=0.3,  # of half of the videos, for each graph
            judge_batches=8,
        ),
    ),
    evanet=dict(
        method="evanet",
        strategy="evolution",
        options=dict(
            evaluations=24,  # number of trained structures
            population=8,
            tournament=3,
            epochs=0.3,  # of half of the videos, for each structure
            judge_batches=8,
            repeats=(1, 2),  # candidates
            largest=12,  # changes of a child at the start; one at the end
            members=2,  # of the ensemble
            distance=0.5,  # at least, of any two members
        ),
    ),
    pvnas=dict(
        method="pvnas",
        strategy="gradient",
        options=dict(
            warmup=500,  # steps of the weights only, before the search
            steps=450,  # of weights and distribution
            alpha=0.02,  # mean learning rate of the distribution
            diverse=True,  # rates in opposite phase, see DiverseRates
            cost_weight=1.0,  # of |expected / budget - 1|, beside the loss in nats
            temperature=1.0,  # of the Gumbel-softmax
        ),
    ),
    # Under a runtime, of one clip on this device; what is found is scaled to the budget as all others are.
    tiny_video_net=dict(
        method="tiny_video_net",
        strategy="evolution",
        options=dict(
            width=0.125,  # factor on the filters of the space
            reference="x3d",  # the entry whose time, as it is at the suite's budget, is the limit; or ``milliseconds``
            evaluations=24,  # trained candidates
            population=8,
            tournament=3,
            epochs=0.3,  # of half of the videos, for each candidate
            judge_batches=8,
        ),
    ),
    # By STEntr, or ``depth``: python -m reproduce search ssv2 --entry e3d_searched --strategy depth
    e3d=dict(
        method="e3d",
        strategy="stentr",
        options=dict(
            structures=50_000,  # drawn, most of them over the budget
            population=256,
            layers=29,  # of the deepest: 9 blocks, two of a stage and three of the first
            unit=2,  # channels are multiples of it
        ),
    ),
)
