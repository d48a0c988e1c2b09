"""Whatever the container, codec and times, whatever is asked for: the frames of a straight reading, or a failure."""

import importlib.util
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from reproduce.data import decode as decoding
from reproduce.data.decode import DECODERS, DecodeError, check, decode
from reproduce.data.scan import _examine, key_of
from reproduce.data.synthetic.writer import encode

# conftest's folder is no package: loaded by its path
_spec = importlib.util.spec_from_file_location("numbered", Path(__file__).with_name("numbered.py"))
numbered = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(numbered)
write, copy, cut, straight = numbered.write, numbered.copy, numbered.cut, numbered.straight

PICKS = {
    "all": np.arange,
    "seventh": lambda n: np.arange(0, n, 7),
    "last": lambda n: np.array([n - 1]),
    "few": lambda n: np.array([n // 2, n // 3, min(3, n - 1)]),
}
OPEN = "open-gop=1:keyint=12:min-keyint=12"
SOURCES = {  # name -> arguments of write
    "plain.mp4": {},
    "pyramid.mp4": dict(options={"x264-params": "bframes=5:b-adapt=0:b-pyramid=normal"}),
    "fast.mp4": dict(options={"preset": "ultrafast"}),
    "open.mp4": dict(options={"x264-params": f"{OPEN}:bframes=3:scenecut=0"}),
    "refresh.mp4": dict(options={"x264-params": "intra-refresh=1:keyint=20"}),
    "interlaced.mp4": dict(options={"x264-params": "interlaced=1"}),
    "hevc.mp4": dict(codec="libx265", options={"x265-params": f"{OPEN}:bframes=4:log-level=none"}),
    "vp9.webm": dict(codec="libvpx-vp9", options={"lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "8"}),
    "vp8.webm": dict(codec="libvpx", options={"lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "8"}),
    "mpeg4.avi": dict(codec="mpeg4", options={"bf": "2"}),
    "h264.avi": {},
    "mpeg2.mpg": dict(codec="mpeg2video", options={"bf": "2"}, container="mpeg"),
    "ten_bit.mp4": dict(pix="yuv420p10le"),
    "odd.mp4": dict(size=(129, 97), pix="yuv444p"),
}


def decoding_times(k, packet):
    packet.pts = packet.dts


def decoding_times_later(k, packet):
    if k >= 18:
        packet.pts = packet.dts


def late(k, packet):
    packet.pts, packet.dts = (t + int(5 / packet.time_base) for t in (packet.pts, packet.dts))


def pause(k, packet):
    packet.pts = packet.dts = packet.dts + 10 * (k >= 20)


def varying(k, packet):
    packet.pts, packet.dts = packet.pts * 3 + packet.pts % 7 // 6, packet.dts * 3


COPIES = {  # name -> source, change
    "times_of_decoding.mkv": ("plain.mp4", decoding_times),
    "times_of_decoding.mp4": ("h264.avi", decoding_times),
    "times_of_decoding_hevc.mkv": ("hevc.mp4", decoding_times),
    "times_of_decoding_later.mkv": ("pyramid.mp4", decoding_times_later),
    "dropped.avi": ("mpeg4.avi", pause),
    "late.mkv": ("plain.mp4", late),
    "varying.mp4": ("pyramid.mp4", varying),
    "stream.ts": ("plain.mp4", None),
    "stream_hevc.ts": ("hevc.mp4", None),
    "flash.flv": ("plain.mp4", None),
    "no_key_first.mkv": ("refresh.mp4", lambda k, packet: k >= 5),
    "holes.mp4": ("plain.mp4", lambda k, packet: k not in (7, 8, 22)),
}
CUTS = {  # name -> source, first frame, count
    "cut_5.mp4": ("plain.mp4", 5, 30),
    "cut_11.mov": ("pyramid.mp4", 11, 10),
    "cut_13.mp4": ("open.mp4", 13, 12),
    "cut_20.mp4": ("hevc.mp4", 20, 20),
    "cut_9.mkv": ("open.mp4", 20, 12),
    "cut_vp9.mp4": ("vp9.webm", 5, 20),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """All of the above."""
    folder = tmp_path_factory.mktemp("straight")
    for name, arguments in SOURCES.items():
        write(folder / name, **arguments)
    for name, (source, change) in COPIES.items():
        copy(folder / source, folder / name, change)
    for name, (source, start, count) in CUTS.items():
        cut(folder / source, folder / name, start, count)
    copy(folder / "plain.mp4", folder / "fragments.mp4", options={"movflags": "frag_keyframe+empty_moov"})
    return folder


@pytest.mark.parametrize("name", [*SOURCES, *COPIES, *CUTS, "fragments.mp4"])
def test_frames_are_those_of_a_straight_reading(files, name):
    try:
        shown = straight(files / name)
    except Exception:
        with pytest.raises(DecodeError, match=name):
            decode(files / name, np.arange)
        return
    for decoder in DECODERS:
        for pick in PICKS.values():
            frames, total = decode(files / name, pick, decoder)
            assert total == len(shown)
            assert np.array_equal(frames, [shown[i] for i in pick(total)]), decoder


QUICK = ("plain.mp4", "pyramid.mp4", "fast.mp4", "vp9.webm", "cut_5.mp4")
SLOW = (
    *("times_of_decoding.mkv", "times_of_decoding_later.mkv", "vp8.webm", "mpeg4.avi", "stream.ts", "interlaced.mp4"),
    "no_key_first.mkv",
)


@pytest.mark.parametrize("name", QUICK + SLOW)
def test_less_is_decoded_where_the_order_is_proven(files, name, monkeypatch):
    read = []
    monkeypatch.setattr(decoding, "_straight", lambda path, pick: read.append(path))
    decoding._pyav(files / name, PICKS["few"])
    assert (read == []) == (name in QUICK)


@pytest.mark.parametrize("name", ["plain.mp4", "stream.ts", "cut_5.mp4", "mpeg4.avi"])
def test_no_more_frames_are_kept_than_wanted(files, name, monkeypatch):
    turned, upright = [], decoding._rgb
    monkeypatch.setattr(decoding, "_rgb", lambda *args: turned.append(1) or upright(*args))
    decode(files / name, lambda n: np.array([3, n - 1, 3]))
    assert len(turned) == 2


def test_damage_is_never_made_up_differently(files):
    data = bytearray((files / "plain.mp4").read_bytes())
    seen = 0
    for seed in range(12):
        spoilt = bytearray(data)
        for i in np.random.default_rng(seed).integers(len(data) // 4, len(data) * 2 // 3, 3):
            spoilt[i] ^= 255
        path = files / "spoilt.mp4"
        path.write_bytes(spoilt)
        try:
            shown = straight(path)
        except Exception:
            continue
        seen += 1
        for pick in PICKS.values():
            assert np.array_equal(decode(path, pick)[0], [shown[i] for i in pick(len(shown))])
    assert seen


def box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", 8 + len(payload)) + kind + payload


def boxes(data: bytes, at: int, end: int):
    while at < end:
        length = struct.unpack(">I", data[at : at + 4])[0]
        yield data[at + 4 : at + 8], data[at : at + length]
        at += length


@pytest.mark.parametrize("first", [True, False])
def test_a_cover_picture_is_no_video(files, first):
    data = (files / "plain.mp4").read_bytes()
    *head, (_, movie) = boxes(data, 0, len(data))
    green = cv2.imencode(".jpg", np.full((180, 320, 3), (0, 160, 0), np.uint8))[1].tobytes()
    handler = box(b"hdlr", struct.pack(">II4s4s", 0, 0, b"mdir", b"appl") + bytes(9))
    items = box(b"ilst", box(b"covr", box(b"data", struct.pack(">II", 13, 0) + green)))
    user = box(b"udta", box(b"meta", bytes(4) + handler + items))
    parts = [(kind, part) for kind, part in boxes(movie, 8, len(movie)) if kind != b"udta"]
    parts.insert(1 if first else len(parts), (b"udta", user))
    path = files / f"cover_{first}.mp4"
    path.write_bytes(b"".join(part for _, part in head) + box(b"moov", b"".join(part for _, part in parts)))
    frames, total = decode(path, np.arange)
    assert total == numbered.COUNT
    assert np.array_equal(frames, straight(files / "plain.mp4"))
    assert fault(path) == ("", "")


def fault(path: Path, full: bool = False) -> tuple[str, str]:
    row = _examine((str(path), key_of(str(path), full), full))
    return row["fault"], row["detail"]


WHOLE = [n for n in (*SOURCES, *COPIES, *CUTS, "fragments.mp4") if n != "no_key_first.mkv"]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", WHOLE)
def test_a_scan_calls_no_whole_file_truncated(files, name, full):
    assert fault(files / name, full) == ("", "")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "name", ["plain.mp4", "faststart.mp4", "vp9.webm", "late.mkv", "stream.ts", "flash.flv", "mpeg4.avi"]
)
def test_a_scan_finds_what_is_cut_off(files, name, full):
    if name == "faststart.mp4":
        copy(files / "plain.mp4", files / name, options={"movflags": "faststart"})
    data = (files / name).read_bytes()
    path = files / f"half_{name}"
    path.write_bytes(data[: len(data) * 3 // 4 + 1])
    assert fault(path, full)[0] in ("truncated", "undecodable")


def test_rotated_and_mirrored_videos_are_upright(tmp_path):
    rows = {  # a, b, c, d of the display matrix -> what a player does
        (1, 0, 0, 1): lambda x: x,
        (0, 1, -1, 0): lambda x: np.rot90(x, -1, (1, 2)),
        (-1, 0, 0, -1): lambda x: np.rot90(x, 2, (1, 2)),
        (0, -1, 1, 0): lambda x: np.rot90(x, 1, (1, 2)),
        (-1, 0, 0, 1): lambda x: x[:, :, ::-1],
        (1, 0, 0, -1): lambda x: x[:, ::-1],
    }
    frames = np.stack([numbered.picture(i) for i in range(4)])
    encode(frames, 25, tmp_path / "plain.mp4")
    plain = decode(tmp_path / "plain.mp4", np.arange)[0]
    data = (tmp_path / "plain.mp4").read_bytes()
    one = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = data.index(one, data.index(b"tkhd"))
    for (a, b, c, d), turn in rows.items():
        matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
        path = tmp_path / f"turned{a}{b}{c}{d}.mp4"
        path.write_bytes(data[:at] + matrix + data[at + len(matrix) :])
        for decoder in DECODERS:
            assert np.array_equal(decode(path, np.arange, decoder)[0], turn(plain)), (a, b, c, d)


def extracted(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), numbered.picture(i)[..., ::-1])
    return folder


def test_frames_of_a_folder_are_in_the_order_of_their_numbers(tmp_path):
    lists = {
        "unpadded": [f"{i}.png" for i in range(1, 25)],
        "padded": [f"img_{i:05d}.png" for i in range(24)],
        "after": [f"frame{i}_rgb.PNG" for i in range(90, 114)],
    }
    for kind, names in lists.items():
        folder = extracted(tmp_path / kind, names)
        for other in (*(f"flow_{a}_{i:05d}.jpg" for a in "xy" for i in range(1, 24)), "x_00001.jpg", "thumb.jpg"):
            cv2.imwrite(str(folder / other), np.full((96, 128), 128, np.uint8))
        (folder / "._img_00001.png").write_bytes(b"of a file manager")
        frames, total = decode(folder, np.arange)
        assert total == 24
        assert np.array_equal(frames, [numbered.picture(i) for i in range(24)])
        assert fault(folder) == fault(folder, True) == ("", "")


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        (["1.png", "2.png", "4.png"], "truncated", "3 of the frames 1 to 4"),
        (
            ["img_1.png", "img_2.png", "mask_1.png"],
            "undecodable",
            "more than one sequence of frames: 2 of img_#",
        ),
        (["1.png", "01.png"], "undecodable", r"are both frame 1"),
        (["flow_x_1.png", "flow_y_1.png"], "undecodable", "no numbered image files, other than optical flow"),
        (["a.png", "b.png"], "undecodable", "no numbered image files"),
    ],
)
def test_a_folder_of_which_no_one_can_tell_is_refused(tmp_path, names, kind, message):
    folder = extracted(tmp_path / "folder", names)
    with pytest.raises(DecodeError, match=message):
        decode(folder, np.arange)
    assert fault(folder)[0] == kind


def test_frames_of_several_sizes_are_refused(files, tmp_path):
    folder = extracted(tmp_path / "folder", ["1.png"])
    cv2.imwrite(str(folder / "2.png"), numbered.picture(1, (64, 48)))
    with pytest.raises(DecodeError, match=r"folder: frames of several sizes: 64x48, 128x96"):
        decode(folder, np.arange)
    write(tmp_path / "small.ts", size=(64, 96))
    joined = tmp_path / "joined.ts"
    joined.write_bytes((files / "stream.ts").read_bytes() + (tmp_path / "small.ts").read_bytes())
    with pytest.raises(DecodeError, match=r"joined\.ts: .*frames of several sizes: 64x96, 128x96"):
        decode(joined, np.arange)


def test_an_unknown_decoder_is_refused_before_anything_is_read(monkeypatch):
    assert check() == decoding.DEFAULT
    monkeypatch.setattr(decoding, "DEFAULT", "opencv")
    with pytest.raises(ValueError, match="unknown decoder 'opencv'; known: decord, pyav"):
        check()
    monkeypatch.delitem(DECODERS, "torchcodec", raising=False)
    with pytest.raises(ValueError, match="DECODER=torchcodec: torchcodec is not installed; known: decord, pyav"):
        check("torchcodec")


def test_another_decoder_is_held_to_the_count_and_the_times(files, monkeypatch):
    times = decoding.checked(files / "plain.mp4")
    assert np.allclose(np.diff(times), 0.04)
    monkeypatch.setattr(decoding, "checked", lambda path: times[:-1])
    with pytest.raises(DecodeError, match="40 frames for 39"):
        DECODERS["decord"](files / "plain.mp4", PICKS["few"])
    monkeypatch.setattr(decoding, "checked", lambda path: times + 0.04)
    with pytest.raises(DecodeError, match="or other ones"):
        DECODERS["decord"](files / "plain.mp4", PICKS["few"])
    shutil.copy(files / "plain.mp4", files / "again.mp4")
    frames, _ = decode(files / "again.mp4", PICKS["few"], "decord")  # PyAV's, then
    assert np.array_equal(frames, decode(files / "plain.mp4", PICKS["few"])[0])
