"""Small copies of the real data sets, in every layout that is about, with generated videos in them."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.data import kinetics, ssv2

COUNT = 60  # videos of a copy: two thirds to train


@pytest.fixture(scope="session")
def clips(shared) -> Path:
    """``0.mp4`` … ``59.mp4``, the same as webm, and one file of each oddity."""
    root = Path(__file__).resolve().parents[3]

    def fill(folder: Path) -> None:
        folder.mkdir()
        command = [sys.executable, str(Path(__file__).with_name("make_clips.py")), str(folder)]
        subprocess.run(command, check=True, cwd=root, env={"PYTHONPATH": str(root), "PATH": ""})

    return shared("clips", fill)


@pytest.fixture(scope="session")
def kinetics_copy(clips):
    """A function (root, layout) that lays a copy of Kinetics-400 out, and returns its root."""

    def copy(root: Path, layout: str) -> Path:
        (root / "annotations").mkdir(parents=True)
        for split, numbers in (("train", range(40)), ("val", range(40, COUNT)), ("test", range(0))):
            rows, listed = [], []
            for i in numbers:
                label = 7 * (i % 40) % 400
                name, video = kinetics.CLASSES[label], f"-{i:02d}_kinetic"
                underscored = name.replace(" ", "_")
                times = f"{i}_{i + 10}" if layout == "flat" else f"{i:06d}_{i + 10:06d}"
                file = {
                    "official": f"{split}/{name}/{video}_{times}.mp4",
                    "flat": f"{split}/{video}_{times}.mp4",
                    "cvdf": f"{split}/{video}_{times}.mp4",
                    "mmaction2": f"videos_{split}/{underscored}/{video}_{times}.mp4",
                    "pyslowfast": f"{split}/{underscored}/{video}_{times}.mp4",
                }[layout]
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(clips / f"{i}.mp4", root / file)
                rows.append([underscored if layout == "flat" else name, video, i, i + 10, split])
                listed.append(f"{file.removeprefix(f'videos_{split}/')} {label}\n")
            if layout == "pyslowfast":
                (root / f"{split}.csv").write_text("".join(listed))
                continue
            if layout == "mmaction2":
                (root / f"kinetics400_{split}_list_videos.txt").write_text("".join(listed))
            name = f"kinetics_{split}.csv" if layout == "mmaction2" else f"{split}.csv"
            with open(root / "annotations" / name, "w", newline="") as file:
                writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC if layout == "cvdf" else csv.QUOTE_MINIMAL)
                writer.writerows([["label", "youtube_id", "time_start", "time_end", "split"], *rows])
        if layout == "cvdf":  # one archive of the split was damaged; the replacement is whole
            damaged = root / "train" / "-05_kinetic_000005_000015.mp4"
            replacement = root / "replacement" / "replacement_for_corrupted_k400" / damaged.name
            replacement.parent.mkdir(parents=True)
            shutil.move(damaged, replacement)
            damaged.write_bytes(b"damaged")
        return root

    return copy


@pytest.fixture(scope="session")
def ssv2_copy(clips):
    """A function (root, kind, generation) that lays a copy of Something-Something-V2 out, and returns its root."""

    def copy(root: Path, kind: str, generation: int = 0) -> Path:
        folder = root / {"webm": ssv2.FOLDERS[0], "mp4": "videos", "frames": "rawframes"}[kind]
        labels = root / "labels" if generation else root
        folder.mkdir(parents=True)
        labels.mkdir(exist_ok=True)
        names = {k: v[generation] for k, v in ssv2.ANNOTATIONS.items()}
        (labels / names["labels"]).write_text(json.dumps({c: str(i) for i, c in enumerate(ssv2.CLASSES)}))
        for split, numbers in (("train", range(40)), ("val", range(40, COUNT))):
            items = []
            for i in numbers:
                label = (86, 87, 166, 50)[i % 40] if i % 40 < 4 else 4 * (i % 40)
                template = ssv2.CLASSES[label].replace("something", "[something]")
                items.append(dict(id=str(100 + i), label="", template=template, placeholders=[]))
                if kind == "frames":
                    write_frames(clips / f"{i}.webm", folder / str(100 + i))
                else:
                    shutil.copy(clips / f"{i}.{kind}", folder / f"{100 + i}.{kind}")
            (labels / names[split]).write_text(json.dumps(items))
        return root

    return copy


def write_frames(video: Path, folder: Path) -> None:
    """The frames of a video as ``img_00001.jpg`` and so on, as mmaction2 extracts them."""
    import av
    import cv2

    folder.mkdir()
    with av.open(str(video)) as container:
        for i, frame in enumerate(container.decode(video=0), start=1):
            quality = [cv2.IMWRITE_JPEG_QUALITY, 98]
            cv2.imwrite(str(folder / f"img_{i:05d}.jpg"), frame.to_ndarray(format="bgr24"), quality)
