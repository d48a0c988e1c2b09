"""How fast videos become clips: against mmaction2's pipeline on the same files, one thread each, in turns.

    python -m reproduce.studies.decoding
    python -m reproduce.studies.decoding --views

The files are generated: embedded scenes as H.264 with B frames in two sizes (Kinetics' common ones) and as VP9
(Something-Something's). Every round times each side once on every file. A ratio compares the two sides of one round and
is over 1 where ours is faster; the record has its median and quartiles over the rounds, of wall and of processor time.

How mmaction2 differs, and how the views are made equal here: it repeats short videos from their beginning
(``out_of_bound_opt='loop'``; set to ``repeat_last``). It rounds the starts of clips where we cut them: equal when
frames - 76 is a multiple of 9, as for 301 frames. Its three crops are of the whole short side (256), in the order left,
right, centre, and views are ordered by crop, then clip. In training it takes a random area and aspect ratio; we jitter
the short side.

The side ``libavcodec`` is a limit: for the same clips as ours it decodes the same packets, from the same starts to
the last wanted frames, with the same frames skipped. It does nothing else: the packets lie in memory, no file is
opened or read, no order proven, nothing converted, resized or cropped. mmaction2's time over its is a ratio that no
pipeline exceeds which gets these frames from libavcodec on one thread. The share of decoding in ours is our ratio
over that one, of processor time.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import cv2
import numpy as np
import torch
from mmaction.registry import MODELS
from mmaction.utils import register_all_modules
from mmengine.dataset import Compose
from torch import nn

from baselines.checkpoints import MAPS
from baselines.x3d import x3d
from reproduce.data.datasets import TestVideos, TrainClips
from reproduce.data.decode import DECODERS, Pick, _order, _packets, decode, needed, opened, picked
from reproduce.data.manifest import Manifest, Video
from reproduce.data.scan import scan
from reproduce.data.synthetic.video import render
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.engines import has_bf16, raced, torch_is_safe
from reproduce.protocol import Crops, Protocol, Sampling
from reproduce.records import session
from reproduce.studies.options import study_parser
from reproduce.whole_files import write_json

PROTOCOL = Protocol(Sampling("dense", 16, 5, clips=10), Crops(256, 256, (256, 320), crops=3))
FRAMES = 301
ORDER = [crop * 10 + clip for clip in range(10) for crop in (0, 2, 1)]  # mmaction2's views in our order
KINDS = {  # name -> codec, its options, height, width, frames, rate
    "h264 340x256": ("libx264", {"preset": "medium", "threads": "1"}, 256, 340, FRAMES, 30),
    "h264 640x360": ("libx264", {"preset": "medium", "threads": "1"}, 360, 640, FRAMES, 30),
    "vp9 428x240": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "threads": "1"}, 240, 428, 46, 12),
}
DECODE = [dict(type="DecordDecode"), dict(type="Resize", scale=(-1, 256))]
FORMAT = [dict(type="FormatShape", input_format="NCTHW"), dict(type="PackActionInputs")]
SAMPLE = dict(type="SampleFrames", clip_len=16, frame_interval=5, out_of_bound_opt="repeat_last")
TEST = [
    dict(type="DecordInit"),
    SAMPLE | dict(num_clips=10, test_mode=True),
    *DECODE,
    dict(type="ThreeCrop", crop_size=256),
    *FORMAT,
]
TRAIN = [
    dict(type="DecordInit"),
    SAMPLE | dict(num_clips=1),
    *DECODE,
    dict(type="RandomResizedCrop"),
    dict(type="Resize", scale=(256, 256), keep_ratio=False),
    dict(type="Flip", flip_ratio=0.5),
    *FORMAT,
]


def make(kind: str, folder: Path, count: int) -> list[Path]:
    """Generated videos of a kind, played forwards and backwards until they are long enough."""
    codec, options, height, width, frames, rate = KINDS[kind]
    paths = []
    for n in range(count):
        scene, _ = render("synthetic-kinetics", "full", 0, "train", n)
        pictures = [cv2.resize(f, (width, height)) for f in scene]
        there_and_back = (pictures + pictures[::-1]) * (frames // len(pictures) + 1)
        paths.append(folder / f"{kind.replace(' ', '-')}-{n}.{'mp4' if codec == 'libx264' else 'webm'}")
        with av.open(str(paths[-1]), "w") as container:
            stream = container.add_stream(codec, rate=rate, options=options)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for picture in there_and_back[:frames]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    return paths


def ratios(sides: dict[str, Callable[[], object]], rounds: int) -> dict:
    """Median time of each side, and of the ratio of the last one to each of the others; one round more to warm up."""
    wall, busy = {s: [] for s in sides}, {s: [] for s in sides}
    for i in range(rounds + 1):
        for side, work in list(sides.items())[:: 1 - 2 * (i % 2)]:  # in both orders: no side is always first
            clocks = time.perf_counter(), time.process_time()
            work()
            wall[side].append(time.perf_counter() - clocks[0])
            busy[side].append(time.process_time() - clocks[1])
    reference = list(sides)[-1]
    out = dict(seconds={s: statistics.median(t[1:]) for s, t in wall.items()}, rounds=rounds)
    for side in list(sides)[:-1]:
        for name, times in (("wall", wall), ("processor", busy)):
            each = np.divide(times[reference][1:], times[side][1:])
            out[f"{side}, {name}"] = [round(float(q), 3) for q in np.quantile(each, (0.25, 0.5, 0.75))]
    return out


def manifest(paths: list[Path]) -> Manifest:
    """One class, one video a file."""
    return Manifest("generated", "val", paths[0].parent, ("x",), tuple(Video(p.stem, p.name, 0) for p in paths))


class Asked:
    """In place of ``Frames``: holds the packets of a manifest's videos, and notes what clips need instead of decoding.

    Attributes:
        jobs: one for each clip, or video of a test, see ``bare``.
    """

    def __init__(self, videos: Manifest) -> None:
        self.files, self.jobs = {}, []
        for video in videos.videos:
            with opened(videos.path(video)) as (container, stream):
                packets = _packets(videos.path(video), container, stream)
                codec = stream.codec_context.name, stream.codec_context.extradata
                self.files[video.id] = codec, packets, *_order(container, stream, packets)

    def distinct(self, video: Video, pick: Pick) -> tuple[np.ndarray, np.ndarray, int]:
        """As ``decode_distinct``, with frames of one black pixel."""
        codec, packets, order, starts = self.files[video.id]
        unique, inverse = picked(pick, len(order))
        wanted = {order[i] for i in unique}
        skips = [(p, "DEFAULT" if p.pts in wanted else "NONREF") for p in needed(packets, starts, wanted)]
        self.jobs.append((codec, wanted, skips))
        return np.zeros((len(unique), 1, 1, 3), np.uint8), inverse, len(order)


def bare(codec: tuple[str, bytes], wanted: set[int], skips: list[tuple[av.Packet, str]]) -> list[av.VideoFrame]:
    """The wanted frames, by libavcodec alone: its decoder's name and extradata, time stamps, packets, what to skip."""
    context = av.CodecContext.create(codec[0], "r")
    context.extradata, context.thread_type = codec[1], "NONE"
    frames = []
    for packet, skip in (*skips, (None, "DEFAULT")):
        context.skip_frame = skip
        frames += [frame for frame in context.decode(packet) if frame.pts in wanted]
    return frames


def pipelines(paths: list[Path], rounds: int) -> dict:
    """Training clips, eight of each video a round, at random; and the 30 views of a test; without a network."""
    videos, each = manifest(paths), 8 * len(paths)
    test, train = Compose(TEST), Compose(TRAIN)
    jobs = [dict(filename=str(p), label=0, start_index=0, modality="RGB") for p in paths]
    sides: dict[str, dict[str, Callable[[], object]]] = dict(train={}, test={})
    for d in DECODERS:
        clips, views, fresh = TrainClips(videos, PROTOCOL, 0, d), TestVideos(videos, PROTOCOL, d), itertools.count()
        sides["train"][d] = lambda clips=clips, fresh=fresh: [clips[next(fresh)] for _ in range(each)]
        sides["test"][d] = lambda views=views: [views[n] for n in range(len(paths))]
    clips, views = TrainClips(videos, PROTOCOL, 0), TestVideos(videos, PROTOCOL)
    clips.frames, views.frames = Asked(videos), Asked(videos)
    for items, number in ((clips, each * (rounds + 1)), (views, len(paths))):
        for n in range(number):
            items[n]
    needs = iter(clips.frames.jobs)
    sides["train"]["libavcodec"] = lambda: [bare(*job) for job in itertools.islice(needs, each)]
    sides["test"]["libavcodec"] = lambda: [bare(*job) for job in views.frames.jobs]
    sides["train"]["mmaction2"] = lambda: [train(dict(job)) for job in jobs * 8]
    sides["test"]["mmaction2"] = lambda: [test(dict(job)) for job in jobs]
    out = {name: ratios(work, rounds) for name, work in sides.items()}
    for found in out.values():
        found["share_of_decoding"] = round(found["pyav, processor"][1] / found["libavcodec, processor"][1], 3)
    return out


def thirty_views(path: Path, rounds: int, depth: float, decoder: str, precision: str = "fp32") -> dict:
    """One video from its file to the logits of its 30 views: mmaction2's pipeline and X3D, ours with equal weights.

    Ours as in a test of ours: an x3d in a ``VideoClassifier``, by the quickest engine, few views at a time. mmaction2's
    network gets its views together, their memory in channels-last order, as its pipeline returns them, and computes in
    fp32.
    """
    recognizer = dict(
        type="Recognizer3D",
        backbone=dict(type="X3D", gamma_w=1, gamma_b=2.25, gamma_d=depth),
        cls_head=dict(type="X3DHead", in_channels=432, num_classes=400, fc1_bias=False),
        data_preprocessor=dict(
            type="ActionDataPreprocessor", mean=[114.75] * 3, std=[57.375] * 3, format_shape="NCTHW"
        ),
    )
    torch.manual_seed(0)
    theirs = MODELS.build(recognizer)
    pipeline, videos = Compose(TEST), TestVideos(manifest([path]), PROTOCOL, decoder)
    seen = {}

    def read() -> torch.Tensor:
        item = pipeline(dict(filename=str(path), label=0, start_index=0, modality="RGB"))
        batch = theirs.data_preprocessor(dict(inputs=[item["inputs"]], data_samples=[item["data_samples"]]))
        return batch["inputs"].flatten(0, 1)

    few = read()[:2]
    for norm in theirs.modules():
        if isinstance(norm, nn.BatchNorm3d):  # as after a training: of a new network they change nothing, or are 0
            nn.init.ones_(norm.weight)
            norm.momentum = 1
    with torch.no_grad():
        theirs.backbone(few)
    theirs.eval()
    net = x3d(num_classes=400, blocks=tuple(math.ceil(depth * blocks) for blocks in (1, 2, 5, 3)))
    net.load_state_dict(MAPS["mmaction2"]["x3d"].ours(theirs.state_dict()))
    names = ("torch", "openvino") if precision == "fp32" or torch_is_safe() else ("openvino",)
    found = raced(net.eval(), (few[:1],), names, precision)
    name = min(found, key=lambda name: found[name][0])
    net, parts = found[name][1], []
    net.register_forward_hook(lambda *call: parts.append(call[-1]))
    ours = VideoClassifier(net, mean=114.75, std=57.375, channels_last=name == "torch").eval()

    @torch.inference_mode()
    def reference():
        seen["theirs"] = theirs.cls_head(theirs.backbone(read()))

    @torch.inference_mode()
    def mine():
        parts.clear()
        ours(videos[0]["clips"][None], torch.zeros(1), mode="predict")

    out = ratios({"ours": mine, "mmaction2": reference}, rounds)
    return out | dict(
        engine=name, largest_difference_of_logits=(torch.cat(parts) - seen["theirs"][ORDER]).abs().max().item()
    )


def all_thirty_views(path: Path, rounds: int, depth: float) -> dict:
    """The 30 views by each decoder in each precision that is to be had, on all cores, at most eight, as in a test."""
    torch.set_num_threads(min(8, os.cpu_count()))
    kinds = ["fp32"] + ["bf16"] * has_bf16()
    found = {f"{d} {kind}": thirty_views(path, rounds, depth, d, kind) for d in DECODERS for kind in kinds}
    found["provenance"] = session("all").model_dump()
    torch.set_num_threads(1)
    print(found, file=sys.stderr)
    return found


def scanning(paths: list[Path], rounds: int) -> dict:
    """A full scan in one process, its start included, against decord decoding every frame of the same files."""

    def look():
        with TemporaryDirectory() as out:
            scan([manifest(paths)], Path(out), full=True, workers=1)

    def bare():
        for path in paths:
            decode(path, np.arange, "decord")

    return ratios({"scan": look, "decord": bare}, rounds)


def memory(path: Path, openings: int, decoder: str) -> dict:
    """Resident memory after so many openings of a file, its first frames read, in MiB, ten times on the way."""

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    for _ in range(20):
        decode(path, lambda _: np.array([0, 1]), decoder)
    sizes = [resident()]
    for _ in range(10):
        for _ in range(openings // 10):
            decode(path, lambda _: np.array([0, 1]), decoder)
        sizes.append(resident())
    return dict(openings=openings, mib=[round(s, 1) for s in sizes], growth_mib=round(sizes[-1] - sizes[1], 1))


def main() -> None:
    """Time everything and write the record."""
    parser = study_parser(__doc__, "studies/decoding.json")
    parser.add_argument("--rounds", type=int, default=15, help="of the pipelines; a third of it of the rest")
    parser.add_argument("--videos", type=int, default=3, help="of each kind")
    parser.add_argument("--openings", type=int, default=10_000, help="of one file, for the memory")
    parser.add_argument("--depth", type=float, default=2.2, help="of the X3D of the 30 views; 2.2: X3D-M")
    parser.add_argument("--views", action="store_true", help="only the 30 views; the rest of --out stays as it is")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    register_all_modules(init_default_scope=True)
    few = max(1, arguments.rounds // 3)
    result = dict(pipelines={}, scan={}, memory={})
    with TemporaryDirectory() as folder:
        (path,) = make("h264 340x256", Path(folder), 1)
        views = dict(thirty_views=all_thirty_views(path, few, arguments.depth))
        if arguments.views:
            before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
            write_json(arguments.out, before | views)
            return
        for kind in KINDS:
            paths = make(kind, Path(folder), arguments.videos)
            result["pipelines"][kind] = pipelines(paths, arguments.rounds)
            result["scan"][kind] = scanning(paths, few)
            print(kind, result["pipelines"][kind], result["scan"][kind], sep="\n  ", file=sys.stderr)
            result["memory"][kind] = {d: memory(paths[0], arguments.openings, d) for d in DECODERS}
    write_json(arguments.out, result | views | dict(provenance=session("all").model_dump()))


if __name__ == "__main__":
    main()
