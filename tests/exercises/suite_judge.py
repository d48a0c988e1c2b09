"""Auto-TSNet's tiny space, judged by the exercise's judge."""

from mmengine.config import read_base

with read_base():
    from configs.suites.kinetics_tiny import *

suite["root"] = "MY_VIDEOS"
searches["auto_tsnet"].update(judge=dict(type="small"))
entries = [dict(name="auto_tsnet", search="auto_tsnet")]
