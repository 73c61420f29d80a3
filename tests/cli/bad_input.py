"""The table of bad input: what is wrong, the words, what is said, and how the place is prepared."""

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import convflow
from convflow.training import checkpoint
from tests.shards import cut

SMALL = "--model.width 16 --model.depth 1 --model.num-groups 2 --data.size 8x8 --data.channels 1"
TRAIN = f"train pictures.flowdcn {SMALL} --run P/new --data P/data"
RESUME = "train --resume P/run"
CLIPS = f"{TRAIN} --data.size 4x8x8 --model.temporal conv"
ZIP = f"{TRAIN} --data P/data.zip"
OWN = "train pictures --data P/data --run P/new"
PARQUET = f"{TRAIN} --data P/data.parquet"
SHARDS = f"{TRAIN} --data P/x-{{000.."
DETECTOR = f"{Path(__file__).parents[1]}/extending/detector.py:load"
EVALUATE = (
    "evaluate P/run --reference P/data --num 8 --steps 1 --batch-size 2 --out P/card.json "
    f"--device cpu --detector {DETECTOR}"
)
PICTURES = f"evaluate P/data --reference P/data --out P/card.json --detector {DETECTOR}"
EXPORT = "export P/run --out"
SAMPLE = "sample P/run --num 2 --steps 1 --out P/out.png"


def nothing(place):
    pass


def edit(name, content):
    """Return a preparation that overwrites a file of the run or of its newest checkpoint."""

    def prepare(place):
        path = next(p for p in (place / "run" / name, newest(place) / name) if p.is_file())
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return prepare


def edit_json(name, **changes):
    def change(data):
        tree = json.loads(data) | changes
        return json.dumps({k: v for k, v in tree.items() if v is not None}).encode()

    def prepare(place):
        edit(name, change)(place)
        if name.startswith("ema/"):  # as in a checkpoint of an earlier version
            edit_json("state.json", files=None, sha256=None)(place)

    return prepare


def half(data):
    return data[: len(data) // 2]


def newest(place):
    return checkpoint.folder_of(place / "run", checkpoint.list_steps(place / "run")[-1])


def other_model(place):
    """Put the checkpoint of a wider network where the run's own is."""
    for kind in ("raw", "ema"):
        wide = convflow.create_model(
            "flowdcn", width=32, depth=1, num_groups=2, in_channels=1, num_classes=10
        )
        wide.save_weights(newest(place) / kind)


def in_shards(place):
    cut(newest(place))


def missing_shard(place):
    in_shards(place)
    (newest(place) / "shards/ema/shard-0.safetensors").unlink()


def empty(place):
    (place / "data").rename(place / "old")
    (place / "data").mkdir()


def only_text(place):
    empty(place)
    (place / "data/notes.txt").write_text("no image")


def mixed(place):
    shutil.copy(place / "data/odd/1.png", place / "data/loose.png")


def spoil(content, name="odd/1.png"):
    def prepare(place):
        path = place / "data" / name
        path.write_bytes(content(path.read_bytes()))

    return prepare


def spoil_all(place):
    for path in (place / "data").rglob("*.png"):
        path.write_text("text")


def zipped(*names, content=b"no image"):
    def prepare(place):
        with zipfile.ZipFile(place / "data.zip", "w") as archive:
            for name in names:
                archive.writestr(name, content)

    return prepare


def file(name, content=b"text"):
    def prepare(place):
        (place / name).write_bytes(content)

    return prepare


def folder(name):
    return lambda place: (place / name).mkdir()


def broken_video(place):
    (place / "videos").mkdir()
    (place / "videos" / "a.mp4").write_bytes(b"no video")


def parquet(columns, names=None):
    def prepare(place):
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet as files

        rows = {k: [picture()] * 3 if v == "pictures" else v for k, v in columns.items()}
        table = arrow.table(rows)
        if names:
            features = {"label": {"names": names, "_type": "ClassLabel"}}
            note = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": note})
        files.write_table(table, place / "data.parquet")

    return prepare


def shards(*numbers, other="", unlabelled=None, ending="png"):
    def prepare(place):
        shutil.rmtree(place / "data")
        shutil.rmtree(place / "run")
        for name in [*(f"x-{number:03}" for number in numbers), *([other] if other else [])]:
            with tarfile.open(place / f"{name}.tar", "w") as archive:
                for kind, content in ((ending, picture()), ("cls", b"1")):
                    if kind != "cls" or name != f"x-{unlabelled or -1:03}":
                        info = tarfile.TarInfo(f"{name}.{kind}")
                        info.size = len(content)
                        archive.addfile(info, io.BytesIO(content))

    return prepare


def picture():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def arrays(images, **others):
    return lambda place: np.savez(place / "data.npz", arr_0=images, **others)


def no_checkpoints(place):
    shutil.rmtree(place / "run/checkpoints")
    (place / "run/checkpoints").mkdir()


# What is wrong; the words, where P is a folder of the test; part of the message; preparation.
CASES = [
    # words
    ("near verb", "trian digits.flowdcn", "did you mean 'train'?"),
    ("near demo", "demo digts", "unknown demo 'digts'; did you mean 'digits'?"),
    ("a demo's page that is no image", "demo --out P/page.html", "--out: expected a .png file"),
    ("a demo's page that is a folder", "demo --out P/x.png", "got the folder", folder("x.png")),
    ("a demo's page below a file", "demo --out P/x/y.png", "got the file", file("x")),
    ("a port beyond all", "demo web P/run --port 70000", "--port: expected a whole number from 1"),
    ("too many images of visitors", "demo web P/run --most 65", "--most: expected a whole number"),
    ("near shipped model", "sample shipped:cifra10", "did you mean 'cifar10'?"),
    ("rounding in place", "export P/run --dtype bfloat16", "got no folder; add --out FOLDER"),
    ("rounding to integers", "export P/run --dtype int8 --out P/new", "invalid choice: 'int8'"),
    (
        "rounding an average of snapshots",
        "export P/run --dtype bfloat16 --sigma-rel 0.1 --out P/new",
        "--dtype: expected none with --sigma-rel, got both",
    ),
    ("unknown verb", "qqqq", "unknown verb 'qqqq'; choose from train, plan, encode"),
    ("near recipe", "train digits.flowdnc", "did you mean 'digits.flowdcn'?"),
    ("unknown recipe", "train zzz", "unknown recipe 'zzz'; choose from"),
    ("a plan without images", "train pictures --run P/new", "--data: expected a folder of images"),
    ("a plan of no minutes", f"{OWN} --minutes 0", "--minutes"),
    ("a plan in epochs", f"{OWN} --epochs 3", "--epochs: expected --minutes or --images with"),
    (
        "a plan from weights",
        f"{OWN} --init P/run",
        "--init: expected none with the recipe pictures",
    ),
    ("a plan for latents", f"{OWN} --codec latent", "--codec: expected none with the recipe"),
    ("a plan for an odd size", f"{OWN} --data.size 9x9 --model.patch-size 2", "multiple"),
    ("near option of a plan", f"{OWN} --batch-sise 3", "did you mean '--batch-size'?"),
    ("a run without a plan", f"{OWN} --run P/run", "expected a run of the recipe pictures, got"),
    ("a plan for a run", f"{OWN} --resume P/run", "--resume: expected --run FOLDER with"),
    ("a plan of a plan", "plan pictures", "unknown recipe 'pictures'"),
    ("no recipe", "train --run P/new", "a recipe or --resume FOLDER, got neither"),
    ("recipe and resume", f"{TRAIN} --resume P/run", "a recipe or --resume FOLDER, got both"),
    (
        "resume and run",
        f"{RESUME} --run P/new",
        "expected --resume FOLDER or --run FOLDER, got both",
    ),
    ("stray word", f"{TRAIN} word", "expected an option, which begins with --, got 'word'"),
    ("no epochs", f"{TRAIN} --epochs 0", "--epochs: expected a number above 0, got '0'"),
    ("time before now", f"{TRAIN} --minutes -5", "--minutes: expected a number above 0, got '-5'"),
    ("minutes in words", f"{TRAIN} --minutes ten", "--minutes: expected a finite number"),
    ("two lengths", f"{RESUME} --epochs 3 --images 99", "--epochs or --images, got both; drop"),
    ("endless epochs", f"{TRAIN} --epochs 1e300", "--epochs: expected at most"),
    ("an epoch", f"{TRAIN} --epoch 3", "did you mean '--epochs'?"),
    (
        "plan of nothing",
        "plan digits.flowdcn --freeze blok*",
        "got 'blok*', which fits none; nearest",
    ),
    (
        "plan of both",
        "plan digits.flowdcn --freeze embed* --lora.rank 2",
        "expected none with --lora",
    ),
    ("frozen nothing", f"{TRAIN} --freeze blok*", "got 'blok*', which fits none; nearest: blocks."),
    ("adapters of nothing", f"{TRAIN} --lora.rank 2", "--lora.rank: expected trained weights to"),
    ("adapters of rank 0", f"{TRAIN} --lora.alpha 2", "--lora.rank: expected at least 1 with the"),
    ("rising layer rates", f"{TRAIN} --optim.layer-decay 1.1", "--optim.layer-decay: expected "),
    ("nothing to merge", "export P/run --merge --out P/new", "without adapters; leave it out"),
    ("an owner without a name", "push P/run pets", "expected a repository like owner/name, got"),
    ("a repository with spaces", "push P/run me/p@ts", "expected a repository like owner/name"),
    ("no repository", "push P/run", "required: OWNER/NAME"),
    (
        "a dry run over files",
        "push P/run me/x --dry-run P/data",
        "--dry-run: expected a new folder",
    ),
    ("a space of a run", "push P/run me/x --space", "--space: expected a model on the Hub"),
    (
        "a space with a card",
        "push a/b me/x --space --card P/a",
        "--card: expected none with --space",
    ),
    ("a space with a licence", "push a/b me/x --space --license mit", "--license: expected none"),
    ("a space of raw weights", "push a/b me/x --space --weights raw", "--weights: expected none"),
    ("a push of nothing", "push P/nothing me/x --dry-run P/new", "found nothing at"),
    (
        "a card that is none",
        "push P/run me/x --dry-run P/new --card P/a.json --device cpu",
        "expected a result card",
        file("a.json", b"{}"),
    ),
    (
        "a near verdict that is none",
        "push P/run me/x --dry-run P/new --nearest P/a.html",
        "that convflow nearest writes",
        file("a.json", b"{}"),
    ),
    ("from a run to nowhere", "train --init P/run --seed 1", "expected --run FOLDER beside --init"),
    ("run without folder", "train digits.flowdcn --run", "expected one argument"),
    ("near key", f"{TRAIN} --imags 5", "did you mean '--images'?"),
    ("key of another case", f"{TRAIN} --data.SIZE 1", "did you mean '--data.size'?"),
    ("near setting", f"{TRAIN} --model.widht 32", "did you mean 'width'?"),
    ("no value", f"{TRAIN} --images", "--images: expected a value after it"),
    ("a group", f"{TRAIN} --ema 3", "--ema is a group"),
    ("near option of sample", f"{SAMPLE} --guidence 2", "did you mean '--guidance'?"),
    ("stray word of sample", f"{SAMPLE} word", "expected no further word, got 'word'"),
    ("sample without model", "sample", "required: model"),
    # values of settings
    (
        "no images",
        f"{TRAIN} --images 0",
        "--images: expected a whole number of at least 1, got '0'",
    ),
    ("images in words", f"{TRAIN} --images many", "--images: expected a whole number, got 'many'"),
    (
        "images beyond counting",
        f"{TRAIN} --images {10**40}",
        "--images: expected a whole number of at most",
    ),
    ("no batch", f"{TRAIN} --batch-size 0", "--batch-size: expected a whole number of at least 1"),
    (
        "no micro-batch",
        f"{TRAIN} --micro-batch 0",
        "--micro-batch: expected a whole number of at least 1",
    ),
    (
        "negative seed",
        f"{TRAIN} --seed -1",
        "--seed: expected a whole number of at least 0, got '-1'",
    ),
    ("negative rate", f"{TRAIN} --optim.lr -1", "--optim.lr: expected a number above 0"),
    ("rate that is none", f"{TRAIN} --optim.lr nan", "--optim.lr: expected a number above 0"),
    ("infinite rate", f"{TRAIN} --optim.lr inf", "--optim.lr: expected a finite number"),
    ("momentum of one", f"{TRAIN} --optim.betas 0.9x1", "--optim.betas: expected a number below 1"),
    ("unknown schedule", f"{TRAIN} --optim.schedule sine", "expected constant or linear"),
    ("decay above one", f"{TRAIN} --ema.decay 2", "--ema.decay: expected a number of at most 1"),
    ("half-life of nothing", f"{TRAIN} --ema.half-lives 0", "--ema.half-lives"),
    ("too wide an average", f"{TRAIN} --ema.sigma-rel 0.3", "--ema.sigma-rel"),
    ("snapshots of nothing", f"{TRAIN} --ema.snapshots 8", "expected --ema.sigma-rel with it"),
    ("averages of one kind twice", f"{TRAIN} --ema.half-lives 9,9", "expected different numbers"),
    ("unknown dtype", f"{TRAIN} --ema.snapshot-dtype int8", "--ema.snapshot-dtype: expected"),
    ("scale of zero", f"{TRAIN} --model.time-scale 0", "time_scale: expected a number above 0"),
    (
        "two kinds of guidance",
        f"{TRAIN} --process meanflow --process.guidance-max 4 --process.guidance 2",
        "expected guidance 1 and mixture 0 with guidance-max",
    ),
    (
        "guidance that nothing is told",
        f"{TRAIN} --process meanflow --sampling.told-guidance 2",
        "told-guidance",
    ),
    ("all dropped", f"{TRAIN} --dropout 1", "--dropout: expected a number below 1, got '1'"),
    ("unknown text", f"{TRAIN} --text letters", "unknown text encoder 'letters'"),
    ("no captions", f"{TRAIN} --text words", "--text: expected captions with the images, got none"),
    ("no encoder", f"{TRAIN} --text.encoder P/none", "expected a text encoder of transformers"),
    ("attention to none", f"{TRAIN} --model.cross-attention 2", "add --text words"),
    ("noise above one", f"{TRAIN} --label-noise 2", "--label-noise: expected a number of at most"),
    (
        "dropout above one",
        f"{TRAIN} --label-dropout 1.1",
        "--label-dropout: expected a number of at most 1",
    ),
    ("unknown precision", f"{TRAIN} --precision float16", "expected auto or float32 or bfloat16"),
    ("unknown device", f"{TRAIN} --device toaster", "expected a usable device, got 'toaster'"),
    ("device without numbers", f"{TRAIN} --device meta", "expected a usable device, got 'meta'"),
    (
        "no steps",
        f"{TRAIN} --sampling.steps 0",
        "--sampling.steps: expected a whole number of at least 1",
    ),
    ("near solver", f"{TRAIN} --sampling.solver hein", "did you mean 'heun'?"),
    ("a chain for a flow", f"{TRAIN} --sampling.solver ddim", "trained with the process ddpm"),
    ("a table that is none", f"{SAMPLE} --table P/a.json", "a.json", file("a.json")),
    ("no table here", f"{SAMPLE} --table P/a.json", "bench solvers MODEL --steps N makes one"),
    ("no table beside the weights", f"{SAMPLE} --solver searched", "MODEL --steps N makes one"),
    ("a name that nobody types", f"{SAMPLE} --solver ancestral", "unknown solver 'ancestral'"),
    ("eta of euler", f"{SAMPLE} --eta 0.5", "has no eta"),
    ("no weaker model", f"{SAMPLE} --guidance-kind auto", "auto and --weaker MODEL together"),
    ("a needless weaker model", f"{SAMPLE} --weaker P/run", "auto and --weaker MODEL together"),
    ("unknown guidance", f"{SAMPLE} --guidance-kind cgf", "expected cfg or cfg-zero, got 'cgf'"),
    ("an image without a mask", f"{SAMPLE} --image P/data", "an image and a mask together"),
    ("no such image", f"{SAMPLE} --image P/a.png --mask P/a.png", "a.png: No such file"),
    (
        "a mask that is none",
        f"{SAMPLE} --image P/run/config.json --mask P/a.png",
        "no image can be",
    ),
    ("unknown diffusion", f"{SAMPLE} --solver euler-maruyama --diffusion sgma", "'sigma'?"),
    (
        "guidance that is none",
        f"{TRAIN} --sampling.guidance nan",
        "--sampling.guidance: expected a finite number, got 'nan'",
    ),
    (
        "negative minutes",
        f"{TRAIN} --checkpoint.every-minutes -1",
        "expected a number of at least 0",
    ),
    (
        "no checkpoint kept",
        f"{TRAIN} --checkpoint.keep 0",
        "--checkpoint.keep: expected a whole number of at least 1",
    ),
    ("augmentation above 1", f"{TRAIN} --data.augment 1.5", "--data.augment: expected"),
    (
        "unknown augmentation",
        f"{TRAIN} --data.augment 0.1 --data.augment-kinds flip,rotate",
        "--data.augment-kinds: expected some of flip, quarter, scale",
    ),
    ("colour of grey", f"{TRAIN} --data.augment 0.1 --data.augment-kinds hue", "grey images"),
    ("kinds alone", f"{TRAIN} --data.augment-kinds hue", "add --data.augment 0.12"),
    (
        "augmentation of average velocities",
        f"{TRAIN} --process meanflow --data.augment 0.1",
        "--data.augment: expected 0 with the process meanflow",
    ),
    (
        "own average of average velocities",
        f"{TRAIN} --process meanflow --objectives.sra.weight 1",
        "--objectives.sra: expected a loss of the process at one time beside it",
    ),
    (
        "velocity of average velocities",
        f"{TRAIN} --process meanflow --objectives.process.kind velocity",
        "expected the process flow with the objective velocity, got meanflow",
    ),
    ("kinds twice", f"{TRAIN} --data.augment 1 --data.augment-kinds hue,hue", "each once"),
    ("parts of the middle", f"{TRAIN} --data.crop-scale 0.5,1", "--data.crop random with it"),
    ("parts the wrong way", f"{TRAIN} --data.crop-scale 1,0.5", "expected the smaller first"),
    ("neither true nor false", f"{TRAIN} --data.flip maybe", "--data.flip: expected true or false"),
    ("one number for a size", f"{TRAIN} --data.size 8", "expected two numbers such as 64x48"),
    ("three for a size", f"{TRAIN} --data.size 8x8x8", "expected a network of videos for the data"),
    (
        "size of zero",
        f"{TRAIN} --data.size 0x8",
        "--data.size: expected a whole number of at least 1, got '0x8'",
    ),
    ("size off the patch", f"{TRAIN} --data.size 9x8", "multiples of 4, got 9x8"),
    ("two channels", f"{TRAIN} --data.channels 2", "--data.channels: expected 1 or 3"),
    ("unknown process", f"{TRAIN} --process ddmp", "unknown process 'ddmp'; did you mean 'ddpm'"),
    (
        "unknown schedule of data",
        f"{TRAIN} --process.schedule sine",
        "unknown schedule 'sine'; did you mean 'cosine'",
    ),
    (
        "unknown prediction",
        f"{TRAIN} --process.prediction epsilon",
        "--process.prediction: expected data or noise or velocity or score",
    ),
    (
        "shift of nothing",
        f"{TRAIN} --process.shift 0",
        "--process.shift: expected a number above 0",
    ),
    (
        "schedule of a chain",
        f"{TRAIN} --process ddpm --process.schedule vp",
        "the process ddpm has no schedule; leave it out, or choose flow",
    ),
    (
        "variance of a flow",
        f"{TRAIN} --process.variance small",
        "the process flow has no variance; leave it out, or choose ddpm",
    ),
    (
        "variance the process has no use for",
        f"{TRAIN} --model.learned-variance true",
        "--model.learned-variance: expected False as in the process, got True; leave it out",
    ),
    # the network
    (
        "width off the groups",
        f"{TRAIN} --model.width 15",
        "expected a width that num_groups divides",
    ),
    ("width in words", f"{TRAIN} --model.width wide", "width: expected a whole number"),
    ("width in powers", f"{TRAIN} --model.width 1e9", "width: expected a whole number, got '1"),
    ("width in small powers", f"{TRAIN} --model.width 1e2", "width: expected a whole number"),
    ("no depth", f"{TRAIN} --model.depth 0", "depth"),
    ("unknown norm", f"{TRAIN} --model.norm batch", "norm"),
    ("unknown feed-forward", f"{TRAIN} --model.mlp conv", "mlp"),
    ("unknown border", f"{TRAIN} --model.border wrap", "border"),
    ("negative reach", f"{TRAIN} --model.reach -1", "reach"),
    ("channels unlike the data", f"{TRAIN} --model.in-channels 3", "expected 1 as in the data"),
    ("classes unlike the data", f"{TRAIN} --model.num-classes 9", "expected 2 as in the data"),
    ("unknown network", f"{TRAIN} --model.name flowdnc", "did you mean 'flowdcn'?"),
    # data
    ("no data named", f"{TRAIN} --data=", "--data: expected a folder of images"),
    ("no such data", f"{TRAIN} --data P/dada", "did you mean"),
    (
        "a file of text",
        f"{TRAIN} --data P/notes.txt",
        "expected a folder, a .zip, .tar, .parquet,",
        file("notes.txt"),
    ),
    ("empty folder", TRAIN, "got none among 0 files", empty),
    ("folder of text", TRAIN, "got none among 1 files", only_text),
    ("folders beside images", TRAIN, "beside 1 loose images", mixed),
    (
        "zero bytes",
        TRAIN,
        "odd/1.png: expected a readable image, got an empty file",
        spoil(lambda _: b""),
    ),
    ("truncated image", TRAIN, "odd/1.png", spoil(half)),
    ("text named .png", TRAIN, "odd/1.png", spoil(lambda _: b"text")),
    ("flipped bytes", TRAIN, "odd/1.png", spoil(lambda d: d[:40] + bytes(20) + d[60:])),
    ("too many pixels", f"{TRAIN} --data.max-pixels 63", "expected at most 63 pixels"),
    ("no pixels allowed", f"{TRAIN} --data.max-pixels 0", "--data.max-pixels: expected"),
    ("nothing usable", f"{TRAIN} --data.on-bad skip", "none of the images is usable", spoil_all),
    ("no such split", f"{TRAIN} --data.split test", "expected a 'test' split"),
    ("no such labels", f"{TRAIN} --data.labels folder", "--data.labels: expected auto or folders"),
    ("no table of labels", f"{TRAIN} --data.labels table", "expected a file with labels"),
    ("no zip", ZIP, "expected a zip archive", file("data.zip")),
    ("a rate of images", f"{TRAIN} --data.fps 8", "expected them with videos in files"),
    ("a stride of images", f"{TRAIN} --data.stride 2", "expected them with videos in files"),
    ("videos in a zip", f"{ZIP} --data.size 4x8x8", "a folder of videos, or", file("data.zip")),
    ("images wanted", f"{TRAIN} --data P/videos", "a size of three sides", broken_video),
    ("no video", f"{CLIPS} --data P/videos", "a.mp4: expected a readable video", broken_video),
    ("no folder of videos", f"{CLIPS} --data P/none", "got none among 0 files", folder("none")),
    ("near kind of time", f"{CLIPS}v --data moving", "did you mean 'conv'?"),
    ("images for videos", f"{TRAIN} --data moving --data.size 4x8x8", "add --model.temporal conv"),
    ("unknown axes", f"{TRAIN} --process dfm --process.axes depth", "--process.axes: expected "),
    (
        "scales along time of images",
        f"{TRAIN} --process dfm --process.axes time",
        "expected videos for scales along time, got images of 8x8",
    ),
    (
        "more axes than factors",
        f"{CLIPS} --data moving --process dfm --process.axes time,space",
        "expected axes of 1 words, one for each factor",
    ),
    (
        "a rate of a model of images",
        f"{SAMPLE} --rate 8",
        "--rate: expected a model of videos with it",
    ),
    ("a rate of nothing", f"{SAMPLE} --rate 0", "--rate: expected a number above 0"),
    ("an endless stride", f"{CLIPS} --data.stride 99", "for a clip of 4 (stride 99)"),
    ("empty zip", ZIP, "got none among 0 files", zipped()),
    ("zip of text", ZIP, "got none among 1 files", zipped("a.txt")),
    ("bad image in a zip", ZIP, "b.png", zipped("a/b.png", "a/c.png")),
    ("no parquet", PARQUET, "expected parquet files", file("data.parquet")),
    ("no image column", PARQUET, "expected an image column", parquet({"label": [0, 1, 2]})),
    (
        "several columns of labels",
        PARQUET,
        "name one with --data.label-column class",
        parquet({"image": "pictures", "class": ["a", "b", "a"], "species": ["a", "b", "a"]}),
    ),
    (
        "no such column",
        f"{PARQUET} --data.label-column clas",
        "label-column: unknown column 'clas'; did you mean 'class'",
        parquet({"image": "pictures", "class": ["a", "b", "a"]}),
    ),
    (
        "no such column of images",
        f"{PARQUET} --data.image-column picture",
        "image-column: unknown column 'picture'; choose from image, label",
        parquet({"image": "pictures", "label": [0, 1, 1]}),
    ),
    ("no groups", f"{TRAIN} --data.shuffle groups", "whose images are read one by one, got groups"),
    (
        "groups in buckets",
        f"{PARQUET} --data.shuffle groups --data.sizes 8x8,8x16",
        "--data.shuffle: expected images with several sizes",
        parquet({"image": "pictures", "label": [0, 1, 1]}),
    ),
    ("no tar", f"{TRAIN} --data P/data.tar", "a tar without compression", file("data.tar")),
    ("missing shard", f"{TRAIN} --data P/", "none called x-001.tar", shards(0, 2)),
    ("missing shard of a pattern", f"{SHARDS}2}}.tar", "none called x-002.tar", shards(0, 1)),
    (
        "shard of another set",
        f"{TRAIN} --data P/",
        "got x-000.tar, y-000.tar",
        shards(0, 1, other="y-000"),
    ),
    (
        "a shard without labels",
        f"{SHARDS}2}}.tar",
        "x-002.png: expected a label, got none",
        shards(0, 1, 2, unlabelled=2),
    ),
    (
        "shards without images",
        f"{SHARDS}1}}.tar",
        "got none among 4 files",
        shards(0, 1, ending="txt"),
    ),
    ("no npy", f"{TRAIN} --data P/data.npy", "damaged or no .npy", file("data.npy")),
    ("no npz", f"{TRAIN} --data P/data.npz", "damaged or no .npz", file("data.npz")),
    (
        "floats for images",
        f"{TRAIN} --data P/data.npz",
        "expected uint8 images",
        arrays(np.zeros((2, 8, 8))),
    ),
    (
        "too few labels",
        f"{TRAIN} --data P/data.npz",
        "2 integer or text",
        arrays(np.zeros((2, 8, 8), np.uint8), arr_1=[0]),
    ),
    (
        "no such array",
        f"{TRAIN} --data P/data.npz --data.label-column y",
        "unknown column 'y'; choose from arr_0",
        arrays(np.zeros((2, 8, 8), np.uint8)),
    ),
    (
        "no column of files",
        f"{TRAIN} --data P/data.csv",
        "expected a column file_name in data.csv, got a, b",
        file("data.csv", b"a,b\n1,2"),
    ),
    (
        "a table that leads away",
        f"{TRAIN} --data P/data.csv",
        "expected a file below",
        file("data.csv", b"file_name\n../x.png"),
    ),
    (
        "a row without its image",
        f"{TRAIN} --data P/data.csv",
        "x.png: expected a readable image",
        file("data.csv", b"file_name\nx.png"),
    ),
    (
        "a row too long",
        f"{TRAIN} --data P/data.csv",
        "line 2 has 2 cells",
        file("data.csv", b"file_name\nx.png,1"),
    ),
    (
        "labels that are none",
        PARQUET,
        "expected an integer or text label",
        parquet({"image": "pictures", "label": [0.5, 1.5, 2.5]}),
    ),
    (
        "a class name twice",
        PARQUET,
        "distinct class names",
        parquet({"image": "pictures", "label": [0, 1, 1]}, ["cat", "cat"]),
    ),
    # run folders
    ("run is a file", f"{TRAIN} --run P/file", "got the file", file("file")),
    ("run within a file", f"{TRAIN} --run P/file/run", "could not write", file("file")),
    ("run where none can be", f"{TRAIN} --run /proc/run", "could not write /proc/run"),
    ("resume of nothing", "train --resume P/nowhere", "expected a run folder with config.json"),
    (
        "resume of a file",
        "train --resume P/file",
        "expected a run folder with config.json",
        file("file"),
    ),
    ("resume of a data folder", "train --resume P/data", "expected a run folder with config.json"),
    ("shards for use", SAMPLE, "gather them with convflow export", in_shards),
    ("a missing shard", RESUME, "shards/ema/shard-0.safetensors, found none; move", missing_shard),
    ("a missing shard for export", "export P/run", "safetensors, found none; copy", missing_shard),
    ("an average without snapshots", "export P/run --sigma-rel 0.1 --out P/x", "found none; train"),
    ("an average without a place", "export P/run --sigma-rel 0.1", "--out FOLDER with it"),
    ("an average that is not kept", f"{SAMPLE} --weights ema-0.3", "weights among ema, raw in"),
    ("export of no run", "export P/data", "expected a run or a checkpoint of convflow train, got"),
    ("export to a folder in use", "export P/run --out P/data", "it exists already; what was"),
    ("near target", f"{EXPORT} P/x --to onxx", "unknown target 'onxx'; did you mean 'onnx'?"),
    ("a target without a place", "export P/run --to onnx", "--out: expected a new place for --to"),
    ("a target over a file", f"{EXPORT} P/a --to onnx", "a, which is there already", file("a")),
    (
        "a target of a run",
        f"{EXPORT} P/x --to onnx --merge",
        "--merge: expected none with --to onnx",
    ),
    (
        "half for diffusers",
        f"{EXPORT} P/x --to diffusers --dtype float16",
        "--dtype: expected none",
    ),
    (
        "bfloat16 for others",
        f"{EXPORT} P/x --to onnx --dtype bfloat16",
        "--dtype: expected float16",
    ),
    ("a runtime without a target", f"{EXPORT} P/x --runtime P", "--runtime: expected --to with it"),
    ("weights without a target", f"{EXPORT} P/x --weights raw", "--weights: expected --to with it"),
    (
        "a runtime for a file",
        f"{EXPORT} P/x --to onnx --runtime P/data",
        "--runtime: expected none with --to onnx",
    ),
    ("a target of no model", "export P/data --to onnx --out P/x", "P/data"),
    ("other settings", f"{RESUME} --batch-size 2", "batch_size (4, now 2)"),
    ("settings that are no JSON", RESUME, "config.json", edit("config.json", b"{")),
    ("settings not in UTF-8", RESUME, "config.json", edit("config.json", b"\xff\xfe{}")),
    ("settings that are a list", RESUME, "expected a JSON object", edit("config.json", b"[]")),
    (
        "unknown setting",
        RESUME,
        "config.json cannot be used: unknown option",
        edit_json("config.json", extra=1),
    ),
    (
        "setting of a wrong type",
        RESUME,
        "--images: expected a whole number",
        edit_json("config.json", images="x"),
    ),
    ("a changed setting", RESUME, "batch_size (4, now 2)", edit_json("config.json", batch_size=2)),
    (
        "state cut in half",
        RESUME,
        "elsewhere to begin anew; there is no other",
        edit("state.json", half),
    ),
    ("state without a step", RESUME, "elsewhere to begin anew", edit_json("state.json", step=None)),
    ("state of a wrong type", RESUME, "elsewhere to begin anew", edit_json("state.json", step="9")),
    ("weights cut in half", RESUME, "elsewhere to begin anew", edit("raw/model.safetensors", half)),
    ("average cut in half", RESUME, "elsewhere to begin anew", edit("ema/model.safetensors", half)),
    (
        "optimizer cut in half",
        RESUME,
        "elsewhere to begin anew",
        edit("optimizer.safetensors", half),
    ),
    (
        "optimizer of zero bytes",
        RESUME,
        "elsewhere to begin anew",
        edit("optimizer.safetensors", b""),
    ),
    (
        "state removed",
        RESUME,
        "without state.json; restore its name and its state.json, choose another --run, or remove",
        lambda p: (newest(p) / "state.json").unlink(),
    ),
    ("checkpoint of another network", RESUME, "elsewhere to begin anew", other_model),
    (
        "other images",
        RESUME,
        "was trained on 5 images, got 1,797",
        edit_json("state.json", num_pictures=5),
    ),
    # watching
    ("all held back", f"{TRAIN} --monitor.validation 9999", "--monitor.validation: expected fewer"),
    ("near logger", f"{TRAIN} --monitor.logger wandbb", "did you mean 'wandb'?"),
    (
        "no such reference in training",
        f"{TRAIN} --monitor.score P/no --monitor.score.detector tests.extending.detector:load",
        "--monitor.score: expected data at",
    ),
    (
        "more held back",
        f"{RESUME} --monitor.validation 1",
        "was started with other settings: monitor.validation.num (0, now 1)",
    ),
    ("no run to compare", "compare P/data", "expected a run folder with metrics.jsonl, got"),
    # scoring
    ("frames of images", f"{PICTURES} --frames 2", "--frames: expected videos"),
    ("a rate of scored images", f"{PICTURES} --fps 2", "--fps: expected videos"),
    ("no frames", f"{PICTURES} --frames 0", "--frames"),
    ("nothing to score", "evaluate --reference P/data", "expected a model or images to score"),
    ("no reference", "evaluate P/run", "expected --reference or --save-statistics, got neither"),
    (
        "reference and statistics",
        f"{EVALUATE} --save-statistics P/a.npz",
        "expected --reference or --save-statistics, got both",
    ),
    ("a card of another ending", f"{EVALUATE} --out P/card.txt", "--out: expected a .json file"),
    ("a card that is there", EVALUATE, "which is there already", file("card.json")),
    (
        "samples that are there",
        f"{EVALUATE} --save-samples P/a.npz",
        "a.npz, which is there already",
        file("a.npz"),
    ),
    ("a card where none can be", f"{EVALUATE} --out /proc/a.json", "/proc/a.json"),
    ("near option of evaluate", f"{EVALUATE} --stepz 3", "did you mean '--steps'?"),
    ("near detector", f"{EVALUATE} --detector inseption", "did you mean 'inception'?"),
    ("no such detector file", f"{EVALUATE} --detector P/d.py:load", "expected a Python file at"),
    ("no such function", f"{EVALUATE}d", "did you mean 'load'?"),
    (
        "no such weights",
        f"{EVALUATE} --detector inception --detector-weights P/a.pth",
        "expected a file at",
    ),
    (
        "weights of text",
        f"{EVALUATE} --detector inception --detector-weights P/a.pth",
        "damaged",
        file("a.pth"),
    ),
    ("weights unlike the checksum", f"{EVALUATE} --detector-sha256 00000000", "SHA-256 00000000"),
    ("a checksum that is none", f"{EVALUATE} --detector-sha256 xyz", "hex digits"),
    ("no such reference", f"{EVALUATE} --reference P/dada", "expected data at"),
    ("no such statistics", f"{EVALUATE} --reference P/a.npz", "found no such file"),
    ("statistics of text", f"{EVALUATE} --reference P/a.npz", "a.npz", file("a.npz")),
    ("a reference without images", EVALUATE, "got none among 0 files", empty),
    (
        "a reference with a bad image",
        f"{EVALUATE} --batch-size 64",
        "repair or remove it",
        spoil(half),
    ),
    ("too few for the reference", f"{EVALUATE} --reference-num 99", "expected at least 99"),
    ("one sample", f"{EVALUATE} --num 1", "expected at least 6 images to score, got 1"),
    ("nothing to score in a folder", PICTURES, "got none among 0 files", empty),
    ("more than there are to score", f"{PICTURES} --num 99", "expected at least 99 images in"),
    ("steps for images", f"{PICTURES} --steps 3", "--steps: expected a model to sample from"),
    ("channels for a model", f"{EVALUATE} --channels 3", "--channels: expected images to score"),
    (
        "unknown policy",
        f"{EVALUATE} --label-policy randm",
        "expected balanced or random, got 'randm'",
    ),
    (
        "unknown precision to score",
        f"{EVALUATE} --precision half",
        "precision: expected auto or float32 or bfloat16, got 'half'",
    ),
    ("unknown label to score", f"{EVALUATE} --labels cat", "unknown label 'cat'"),
    ("no card to compare", "evaluate --compare P/a.json", "expected a result card at"),
    ("no card but text", "evaluate --compare P/a.json", "not JSON", file("a.json")),
    ("a model as reference", f"{EVALUATE} --reference P/run", "got the model"),
    ("a split of a model", f"{EVALUATE} --split test", "--split: expected images to score"),
    ("cards and a model", "evaluate P/run --compare P/a.json", "expected result cards alone"),
    ("allowed without cards", f"{EVALUATE} --allow seed", "--allow: expected --compare with it"),
    ("nowhere to score", "evaluate P/a/b --reference P/data --device cpu", "found nothing at"),
    # sampling
    ("size beyond memory", f"{SAMPLE} --size 1000000000000", "expected sides of at most 65536"),
    ("images without end", f"{SAMPLE} --num 1{'0' * 17}", "expected at most 10,000,000 images"),
    ("steps without end", f"{SAMPLE} --steps 1000000000", "expected at most 100,000 steps"),
    ("no such model", "sample P/nowhere", "expected"),
    ("a file for a model", "sample P/file", "expected", file("file")),
    ("a data folder for a model", "sample P/data", "expected"),
    ("no checkpoint yet", SAMPLE, "no complete checkpoint yet", no_checkpoints),
    ("unknown kind of weights", f"{SAMPLE} --weights best", "expected ema, raw or another average"),
    ("unknown label", f"{SAMPLE} --labels 3,cat", "unknown label 'cat'"),
    ("prompt for labels", f"{SAMPLE} --prompt cat", "expected labels for a model"),
    ("no prompts", f"{SAMPLE} --prompts P/none.txt", "--prompts: expected a file of texts"),
    ("label out of range", f"{SAMPLE} --labels 10", "unknown label '10'"),
    ("empty label", f"{SAMPLE} --labels 1,,2", "unknown label ''"),
    ("no images to sample", f"{SAMPLE} --num 0", "expected a whole number of at least 1, got '0'"),
    ("no steps to take", f"{SAMPLE} --steps 0", "expected a whole number of at least 1, got '0'"),
    ("no images at once", f"{SAMPLE} --batch-size 0", "expected a whole number of at least 1"),
    ("negative seed of sample", f"{SAMPLE} --seed -1", "expected a whole number of at least 0"),
    ("seed in words", f"{SAMPLE} --seed one", "expected a whole number of at least 0, got 'one'"),
    ("guidance of nan", f"{SAMPLE} --guidance nan", "expected a finite number, got 'nan'"),
    ("guidance of inf", f"{SAMPLE} --guidance inf", "expected a finite number, got 'inf'"),
    ("guidance in words", f"{SAMPLE} --guidance much", "expected a number, got 'much'"),
    ("interval upside down", f"{SAMPLE} --interval 0.9,0.1", "0 <= low <= high <= 1"),
    (
        "interval beyond time",
        f"{SAMPLE} --interval 0,2",
        "--interval: expected a number of at most 1, got '0,2'",
    ),
    (
        "interval of one",
        f"{SAMPLE} --interval 0.5",
        "--interval: expected two numbers such as 0.5,2, got '0.5'",
    ),
    ("size in words", f"{SAMPLE} --size big", "expected HEIGHTxWIDTH such as 48x32, got 'big'"),
    ("size of nothing", f"{SAMPLE} --size 0x8", "got 0x8"),
    ("one size of several in words", f"{SAMPLE} --size 8x8,big", "expected HEIGHTxWIDTH such as"),
    ("solver of no name", f"{SAMPLE} --solver hein", "did you mean 'heun'?"),
    ("shift of zero", f"{SAMPLE} --shift 0", "expected a number above 0, got '0'"),
    ("infinite shift", f"{SAMPLE} --shift inf", "expected a finite number, got 'inf'"),
    ("last step too long", f"{SAMPLE} --last-step 1", "last_step in (0, 1)"),
    ("reach of zero", f"{SAMPLE} --reach 0", "expected a number above 0, got '0'"),
    ("reach of a word", f"{SAMPLE} --reach far", "expected a finite number, got 'far'"),
    ("part of no schedule", f"{SAMPLE} --reach-times 0,1", "--reach-times: expected --reach auto"),
    ("too few blocks", f"{SAMPLE} --reach auto", "more than 9 blocks for the published"),
    ("one block", f"{SAMPLE} --reach auto --reach-blocks 5", "expected FIRST,LAST such as 5,7"),
    (
        "form of a schedule",
        f"{SAMPLE} --reach auto --reach-form line",
        "reach-form: expected linear or constant, got 'line'; did you mean 'linear'?",
    ),
    (
        "positions of a convolution",
        f"{SAMPLE} --position-scaling ntk",
        "flowdcn has no position_scaling, got ntk; leave it out, it belongs to dit and sit",
    ),
    ("device of sample", f"{SAMPLE} --device toaster", "expected a usable device"),
    ("other kind of image", f"{SAMPLE} --out P/out.jpg", "expected a .png file or a folder"),
    (
        "image where a folder is",
        "sample P/run --out P/x.png",
        "got the folder",
        lambda p: (p / "x.png").mkdir(),
    ),
    ("folder where a file is", f"{SAMPLE} --single --out P/file", "got the file", file("file")),
    ("image within a file", f"{SAMPLE} --out P/file/a.png", "got the file", file("file")),
    ("image where none can be", f"{SAMPLE} --out /proc/a.png", "that can be written to"),
    (
        "weights to sample cut in half",
        SAMPLE,
        "model.safetensors is damaged",
        edit("ema/model.safetensors", half),
    ),
    (
        "network settings cut in half",
        SAMPLE,
        "config.json is damaged",
        edit("ema/config.json", half),
    ),
    (
        "pipeline.json cut in half",
        SAMPLE,
        "pipeline.json is damaged",
        edit("ema/pipeline.json", half),
    ),
    (
        "checkpoint without its state",
        SAMPLE,
        "without state.json; restore its name and its state.json, or give the model folder",
        lambda p: (newest(p) / "state.json").unlink(),
    ),
    (
        "pipeline.json without size",
        SAMPLE,
        "pipeline.json",
        edit_json("ema/pipeline.json", size=None),
    ),
    (
        "pipeline.json with words",
        SAMPLE,
        "steps",
        edit_json("ema/pipeline.json", sampling={"steps": "many"}),
    ),
    (
        "pipeline.json with another process",
        SAMPLE,
        "process",
        edit_json("ema/pipeline.json", process="dpm"),
    ),
    (
        "too few class names",
        SAMPLE,
        "name for each of its 10 classes",
        edit_json("ema/pipeline.json", class_names=["a"]),
    ),
]
