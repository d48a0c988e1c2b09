"""Embedded videos at full size on a GPU, about an hour per model."""

from mmengine.config import read_base

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

with read_base():
    from .quick import *

epochs = 20
batch = 64
amp = "bf16"
workers = 12

nets["slowfast"] = dict(type=slowfast, depth=18, alpha=4)
nets["x3d"] = dict(type=x3d, blocks=(1, 2, 4, 2), head_width=512)
nets["tsm"] = dict(type=tsm, depth=18)
nets["auto_tsnet_uniform"] = dict(type=auto_tsnet_uniform, space="s")
nets["auto_tsnet"] = dict(type=auto_tsnet)
nets["mvit"] = dict(type=mvit, drop_path=0.1)
nets["movinet"] = dict(type=movinet, drop_path=0.1)
nets["assemblenet"] = dict(type=assemblenet)
nets["assemblenet_searched"] = dict(type=assemblenet, learn_connections=True)
nets["pvnas"] = dict(type=pvnas, blocks=(3, 4, 6, 3), strides=(1, 2, 2, 2))
nets["tiny_video_net"] = dict(type=tiny_video_net, network="tvn_4")
nets["tiny_video_net_searched"] = dict(type=tiny_video_net)
nets["e3d"] = dict(type=e3d)
nets["e3d_searched"] = dict(type=e3d)
nets["auto_x3d"] = dict(type=auto_x3d)
nets["evanet_a"] = dict(type=evanet, structures="a")
nets["evanet_b"] = dict(type=evanet, structures="b")
nets["evanet"] = dict(type=evanet)

tuning["structure"] = dict(
    tsm=[dict(depth=50)],
    x3d=[dict(blocks=(1, 2, 5, 3)), dict(blocks=(3, 5, 11, 7))],
    slowfast=[dict(alpha=8), dict(depth=50)],
    mvit=[dict(kv_stride=4), dict(depth=10, downscale=(1, 3, 8))],
)

# Lengths and rates of the searches are ours: those of the papers are not public.
searches["auto_tsnet"].update(
    space="s", checkpoint=100, options=dict(warmup=1000, steps=2000, type_steps=800), fpnas=dict(lr=0.05)
)
searches["auto_x3d"].update(space="x3d_s", checkpoint=100, options=dict(warmup=1000, steps=2000), fpnas=dict(lr=0.05))
searches["assemblenet"].update(
    epochs=5, options=dict(keep=0.35, evaluations=100, population=20, tournament=5, epochs=1, judge_batches=16)
)
searches["evanet"]["options"].update(
    evaluations=100, population=20, tournament=5, epochs=1, judge_batches=16, repeats=(1, 2, 3, 4, 5, 6)
)
searches["pvnas"]["options"].update(warmup=2000, steps=4000, alpha=0.005)
searches["tiny_video_net"]["options"].update(
    width=0.5, evaluations=100, population=20, tournament=5, epochs=1, judge_batches=16
)
searches["e3d"]["options"].update(layers=83, unit=8)
