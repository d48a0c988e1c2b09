"""For tests of the machinery: seconds on a CPU, nothing is learnt."""

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

epochs = 1
batch = 4
workers = 0
checkpoint = 1

nets["slowfast"] = dict(type=slowfast, depth=18, blocks=(1, 1, 1, 1), alpha=4)
nets["x3d"] = dict(type=x3d, blocks=(1, 1, 2, 1), head_width=256)
nets["tsm"] = dict(type=tsm, depth=50, blocks=(1, 1, 1, 1), shift_div=4)  # narrow layers: an eighth is no channel
nets["auto_tsnet_uniform"] = dict(type=auto_tsnet_uniform, space="tiny")
nets["auto_tsnet"] = dict(type=auto_tsnet)
nets["mvit"] = dict(type=mvit, depth=3, downscale=(1,), kv_stride=2)
nets["movinet"] = dict(type=movinet, head_width=32)
nets["assemblenet"] = dict(type=assemblenet, modules=(1, 1, 1, 1), flow_iterations=2)
nets["assemblenet_searched"] = dict(type=assemblenet, modules=(1, 1, 1, 1), flow_iterations=2, learn_connections=True)
nets["pvnas"] = dict(type=pvnas, blocks=(1, 1), strides=(1, 2))
nets["tiny_video_net"] = dict(type=tiny_video_net, network="tvn_4", repeats=(1, 1, 1))
nets["tiny_video_net_searched"] = dict(type=tiny_video_net)
nets["e3d"] = dict(type=e3d, blocks=(1, 1, 1, 1, 1), hidden=64)
nets["e3d_searched"] = dict(type=e3d, hidden=64)
nets["auto_x3d"] = dict(type=auto_x3d)
nets["evanet_a"] = dict(type=evanet, structures="a", repeats=(1, 1, 1, 1))
nets["evanet_b"] = dict(type=evanet, structures="b", repeats=(1, 1, 1, 1))
nets["evanet"] = dict(type=evanet)

tuning["trials"] = 3
tuning["structure"] = dict(tsm=[dict(blocks=(1, 1, 2, 1))])

searches["auto_tsnet"].update(
    epochs=3, checkpoint=1, options=dict(warmup=2, steps=4, type_steps=2, judge_batches=1, finalists=2)
)
searches["auto_x3d"].update(epochs=3, checkpoint=1, options=dict(warmup=1, steps=3, judge_batches=1, finalists=2))
searches["assemblenet"].update(
    epochs=0.5, options=dict(keep=0.35, evaluations=3, population=2, tournament=1, epochs=1, judge_batches=1)
)
searches["evanet"]["options"].update(evaluations=3, population=2, tournament=1, epochs=1, judge_batches=1, repeats=(1,))
searches["pvnas"].update(epochs=3)
searches["pvnas"]["options"].update(warmup=2, steps=4, alpha=0.1)
searches["tiny_video_net"].update(epochs=0.5)
searches["tiny_video_net"]["options"].update(evaluations=3, population=2, tournament=1, epochs=1, judge_batches=1)
searches["e3d"]["options"].update(structures=2000, population=32, unit=1)
