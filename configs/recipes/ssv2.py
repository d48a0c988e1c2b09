"""Something-Something-V2 recipe, the same for every model: from scratch, since no model here is pretrained.

From VoV3D's re-training of X3D without pretraining (youngwanLEE/VoV3D configs/SSv2/x3d/x3d_M.yaml): batch 64, learning
rate 0.1, cosine, 100 epochs, one of warm-up, weight decay 5e-5.
"""

from mmengine.config import read_base

with read_base():
    from .kinetics import *

epochs = 100
batch = 64
reference_batch = 64
warmup = 1 / 100

searches["assemblenet"].update(epochs=30)
searches["pvnas"]["options"].update(warmup=30_000, steps=60_000)
