"""Kinetics-400 recipe, the same for every model: SGD from scratch, cosine, long.

From X3D's and SlowFast's public recipes (facebookresearch/SlowFast, configs/Kinetics/X3D_M.yaml and
SLOWFAST_4x16_R50.yaml): learning rate 0.1 per 128 clips, scaled linearly; 35 of 300 epochs of warm-up; weight decay
5e-5, none on batch norm. Batch norm's statistics are over 8 clips, as on each GPU of SlowFast's recipe (64 clips on 8
GPUs), for any number of GPUs here: a step of 128 clips is one pass on 16 GPUs, two on 8, sixteen on one.

There is no `tuning` here: the published values are untouched. A suite of one's own may add one, as quick.py has it.
"""

from mmengine.optim import OptimWrapper
from torch.optim import SGD

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

epochs = 300
batch = 128  # clips per step, all devices together; the rate below is scaled with it
reference_batch = 128  # the batch that the rate is stated for
sub_batch = 8  # clips per pass and batch norm; the gradients of a step's passes are accumulated
amp = "bf16"
warmup = 35 / 300
threads = 8  # on a CPU; fixed, since another number rounds sums differently
workers = 12
label_smoothing = 0.0
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=SGD, lr=0.1, momentum=0.9, weight_decay=5e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0),
    clip_grad=dict(max_norm=40.0),  # mmaction2's SlowFast
)
precise_bn = 200
ema = None
checkpoint = 1000

nets = dict(
    slowfast=dict(type=slowfast, alpha=4),  # 4 slow frames of 16
    x3d=dict(type=x3d),
    tsm=dict(type=tsm),
    auto_tsnet_uniform=dict(type=auto_tsnet_uniform),
    auto_tsnet=dict(type=auto_tsnet),
    mvit=dict(type=mvit),
    movinet=dict(type=movinet, size="a2"),
    assemblenet=dict(type=assemblenet),
    assemblenet_searched=dict(type=assemblenet, learn_connections=True),  # learnt with the other weights
    pvnas=dict(type=pvnas, blocks=(3, 4, 6, 3), strides=(1, 2, 2, 2)),
    tiny_video_net=dict(type=tiny_video_net, network="tvn_4"),
    tiny_video_net_searched=dict(type=tiny_video_net),
    e3d=dict(type=e3d, network="e3d_m"),
    e3d_searched=dict(type=e3d),
    auto_x3d=dict(type=auto_x3d),
    evanet_a=dict(type=evanet, structures="a"),
    evanet_b=dict(type=evanet, structures="b"),
    evanet=dict(type=evanet),
)

# Lengths and rates of the searches are ours: those of the papers are not public.
searches = dict(
    auto_tsnet=dict(
        method="auto_tsnet",
        space="m",
        fair=False,  # fair channel selection
        strategy="fpnas",
        options=dict(warmup=20_000, steps=40_000, type_steps=15_000),
        fpnas=dict(lr=0.025),  # Auto-X3D: 0.025; a shorter search needs a larger step
        warmup=0.03,
    ),
    auto_x3d=dict(
        method="supernet",
        space="x3d_m",
        fair=True,
        strategy="fpnas",
        options=dict(warmup=20_000, steps=40_000),  # of each half; a third warms up: Auto-X3D's 200 of 600 epochs
        fpnas=dict(lr=0.025),  # Auto-X3D's
        warmup=0.03,
    ),
    assemblenet=dict(
        method="assemblenet",
        strategy="connections",
        epochs=60,
        options=dict(
            keep=0.35,  # share of the connections, as in AssembleNet-50
            evaluations=200,  # from here on for evolution: number of trained graphs
            population=50,
            tournament=10,
            epochs=5,
            judge_batches=50,
        ),
    ),
    evanet=dict(
        method="evanet",
        strategy="evolution",
        options=dict(
            evaluations=200,  # number of trained structures
            population=50,
            tournament=10,
            epochs=5,
            judge_batches=50,
            repeats=(1, 2, 3, 4, 5, 6),  # candidates
            largest=12,  # changes of a child at the start; one at the end
            members=2,  # of the ensemble, as of each input of the published one
            distance=0.5,  # at least, of any two members
        ),
    ),
    pvnas=dict(
        method="pvnas",
        strategy="gradient",
        options=dict(
            warmup=50_000,  # steps of the weights only, before the search
            steps=100_000,  # of weights and distribution
            alpha=0.001,  # mean learning rate of the distribution
            diverse=True,  # rates in opposite phase, see DiverseRates
            cost_weight=1.0,  # of |expected / budget - 1|, beside the loss in nats
            temperature=1.0,  # of the Gumbel-softmax
        ),
    ),
    tiny_video_net=dict(
        method="tiny_video_net",
        strategy="evolution",
        options=dict(
            width=1.0,
            reference="x3d",
            evaluations=200,
            population=50,
            tournament=10,
            epochs=5,
            judge_batches=50,
        ),
    ),
    e3d=dict(
        method="e3d",
        strategy="stentr",
        options=dict(structures=100_000, population=256, layers=83, unit=8),  # as the authors', for M
    ),
)
