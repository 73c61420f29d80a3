"""Does the page of `convflow demo web` survive its visitors?

    python -m benchmarks.reliability.web MODEL [--requests 200] [--clients 8] [--seed 0]

Clients send requests through loopback, good ones and bad ones in a random order. Every picture must
be that of the library, every bad request must be refused for its own reason, no traceback may name
a file of convflow, the page must go on, and its memory must stay where a quarter of the requests
brought it. Times are not measured.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
from PIL import Image

from benchmarks.harness import DIRTY, RESULTS, write_table
from convflow.pipeline import Pipeline

WAIT_S = 300
STEPS = 4
MOST_GROWN_MIB = 64
"""Memory that the page may hold more after the requests than before."""
WORDLESS = r"error \{\"error\": null\}"
"""How gradio refuses what has the wrong type, or a file that nobody uploaded."""
FIELDS = ("labels", "num", "height", "width", "seed", "solver", "steps", "guidance")
SQUARE = 16
"""A picture to paint on has so many pixels for each of the model's, along a side."""

REFUSALS = {
    "a side of a million": "error .*height: expected a whole number",
    "a number of pictures of a million": "error .*greater than maximum value",
    "a class that does not exist": "error .*unknown label",
    "20 MB of text": "413|connection",
    "900 kB of text": "error .*expected at most 64 names",
    "text for a number": WORDLESS,
    "nothing for a number": "error .*width: expected a whole number",
    "a list for a number": WORDLESS,
    "a solver that is code": "error .*not in the list",
    "too few values": WORDLESS,
    "no JSON": "422",
    "no picture": "error .*expected a picture to paint on",
    "a mask of another size": "error .*expected paint on the whole picture",
    "a mask of garbage": "error .*cannot be read",
    "a picture of garbage": "error .*cannot be read",
    "a picture of 5000 pixels a side": "error .*at most 4096x4096",
    "a mask that is text": WORDLESS,
    "a file of the machine": WORDLESS,
    "a path of the machine": "403",
    "a file of another machine": "error .*got an address",
    "a path of another machine": "403",
}
"""Bad requests, and patterns of what the page says of them."""


class Refused(Exception):
    """The page has refused a request, and said why."""


@dataclass(frozen=True)
class ServedPage:
    """A page that is served.

    Attributes:
        place: its address.
        program: that serves it.
        log: what it says of errors.
    """

    place: str
    program: subprocess.Popen[str]
    log: IO[str]

    def faults(self) -> int:
        """Return how many lines of tracebacks name a file of convflow."""
        self.log.seek(0)
        return sum(bool(re.search(r'File ".*/convflow/\w+/', line)) for line in self.log)

    def get(self, path: str) -> bytes:
        """Return what lies at a path below the address, or raise Refused."""
        return self._send(urllib.request.Request(self.place + path))

    def post(self, path: str, content: bytes, kind: str) -> Any:
        """Return the JSON that answers some content of a kind, or raise Refused."""
        request = urllib.request.Request(self.place + path, content, {"Content-Type": kind})
        return json.loads(self._send(request))

    def call(self, name: str, values: list[Any]) -> list[Any]:
        """Return what the page shows in the end, or raise Refused."""
        content = json.dumps({"data": values}).encode()
        event = self.post(f"gradio_api/call/{name}", content, "application/json")["event_id"]
        lines = self.get(f"gradio_api/call/{name}/{event}").decode().split("\n")
        kinds = [line[7:] for line in lines if line.startswith("event: ")]
        data = [line[6:] for line in lines if line.startswith("data: ")]
        if kinds[-1] != "complete":
            raise Refused(f"{kinds[-1]} {data[-1]}")
        return json.loads(data[-1])

    def upload(self, content: bytes, name: str = "a.png") -> dict[str, Any]:
        """Return what the page calls a file that is sent to it."""
        edge = uuid4().hex
        head = (
            f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        )
        body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
        (path,) = self.post("gradio_api/upload", body, f"multipart/form-data; boundary={edge}")
        return file_at(path)

    def pixels(self, pictures: list[Any]) -> list[np.ndarray]:
        """Return the pictures of a gallery."""
        paths = [picture["image"]["path"] for picture in pictures]
        return [
            np.asarray(Image.open(io.BytesIO(self.get(f"gradio_api/file={path}"))))
            for path in paths
        ]

    def memory_mib(self) -> float:
        """Return the memory that the program holds."""
        status = Path(f"/proc/{self.program.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def _send(self, request: urllib.request.Request) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(f"{error.code} {error.read(200)!r}") from error
        except (urllib.error.URLError, ConnectionError) as error:  # it was ended while we sent
            raise Refused(f"connection: {error}") from error


def file_at(path: str) -> dict[str, Any]:
    """Return how a form names a file of the page."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@contextmanager
def serving(*words: str) -> Iterator[ServedPage]:
    """Give the page of `convflow demo web` with some words, ended by Ctrl-C."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115, read when the page has ended
    program = subprocess.Popen(
        [sys.executable, "-m", "convflow", "demo", "web", *words, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        assert program.stdout is not None
        said = program.stdout.readline()
        if "Ctrl-C ends it" not in said:
            raise RuntimeError(f"the page does not start: {said!r}")
        yield ServedPage(f"http://127.0.0.1:{port}/", program, log)
    finally:
        program.send_signal(signal.SIGINT)
        try:
            program.wait(30)
        except subprocess.TimeoutExpired:
            program.kill()
            raise


@dataclass(frozen=True)
class Visit:
    """A request, and what must come of it.

    Attributes:
        kind: in words.
        pay: makes the request; returns pictures, or None where there are none.
        expected: from the pipeline to the pictures; None where it must be refused.
        refusal: pattern of what a refusal says.
    """

    kind: str
    pay: Callable[[ServedPage], list[np.ndarray] | None]
    expected: Callable[[Pipeline], list[np.ndarray]] | None = None
    refusal: str = ""


def good_form(rng: random.Random, pipe: Pipeline) -> dict[str, Any]:
    """Return a form that the model takes."""
    height, width = pipe.size
    names = [pipe.name_of(i) for i in range(pipe.model.num_classes)]
    return {
        "labels": rng.sample(names, min(len(names), rng.randint(0, 2))),
        "num": rng.randint(1, 4),
        "height": height * rng.randint(1, 2),
        "width": width * rng.randint(1, 2),
        "seed": rng.randint(0, 2**40),
        "solver": "heun" if pipe.sampling.solver.kind == "heun" else "euler",
        "steps": STEPS,
        "guidance": rng.choice([1.0, 1.5, 3.0]),
    }


def expected_of(form: Mapping[str, Any], pipe: Pipeline, **images: Any) -> list[np.ndarray]:
    """Return the pictures of the library for a form."""
    made = pipe(
        form["labels"] or None,
        num=form["num"],
        size=(form["height"], form["width"]),
        seed=form["seed"],
        solver=form["solver"],
        steps=form["steps"],
        guidance=form["guidance"],
        **images,
    )
    return [np.asarray(image) for image in made.images]


def drawing(form: dict[str, Any]) -> Callable[[ServedPage], list[np.ndarray]]:
    """Return the visit of somebody who presses Draw."""
    values = [*(form[name] for name in FIELDS), False]
    return lambda page: page.pixels(page.call("draw", values)[1])


def painting(
    form: dict[str, Any], edited: Callable[[ServedPage], Any]
) -> Callable[[ServedPage], list[np.ndarray]]:
    """Return the visit of somebody who paints over a picture."""

    def pay(page: ServedPage) -> list[np.ndarray]:
        values = [*(form[name] for name in FIELDS), edited(page)]
        return page.pixels(page.call("paint", values)[1])[:-2]

    return pay


def png(image: Image.Image) -> bytes:
    """Return the file of an image."""
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def painted(page: ServedPage, picture: bytes, *layers: bytes) -> dict[str, Any]:
    """Return the value of an editor with these files."""
    given = [page.upload(layer) for layer in layers]
    return {"background": page.upload(picture), "layers": given, "composite": None}


def whole_painting(rng: random.Random, form: dict[str, Any]) -> tuple[Image.Image, Image.Image]:
    """Return a picture of noise and paint on a part of it."""
    height, width = form["height"], form["width"]
    noise = np.random.default_rng(rng.randint(0, 2**30)).integers(
        0, 256, (height, width, 3), np.uint8
    )
    side = (width * SQUARE, height * SQUARE)
    picture = Image.fromarray(noise).resize(side, Image.Resampling.NEAREST)
    layer = Image.new("RGBA", side)
    layer.paste((255, 0, 0, 255), (0, 0, side[0] // 2, side[1]))
    return picture, layer


def visits(count: int, rng: random.Random, pipe: Pipeline) -> list[Visit]:
    """Return good and bad requests, in a random order; half of them ask for pictures."""

    def form(**bad: Any) -> dict[str, Any]:
        return good_form(rng, pipe) | bad

    def good() -> Visit:
        asked = form()
        return Visit("pictures", drawing(asked), lambda pipe: expected_of(asked, pipe))

    def good_painting() -> Visit:
        asked = form()
        picture, layer = whole_painting(rng, asked)
        mask = layer.getchannel("A")
        return Visit(
            "a painted mask",
            painting(asked, lambda page: painted(page, png(picture), png(layer))),
            lambda pipe: expected_of(asked, pipe, image=picture, mask=mask),
        )

    garbage, small = rng.randbytes(5000), png(Image.new("RGBA", (3, 3), "red"))
    flat, large = png(Image.new("RGB", (64, 64))), png(Image.new("L", (5000, 5000)))
    address = "https://example.com/a.png"
    bad: dict[str, Callable[[], Callable[[ServedPage], Any]]] = {
        "a side of a million": lambda: drawing(form(height=10**6)),
        "a number of pictures of a million": lambda: drawing(form(num=10**6)),
        "a class that does not exist": lambda: drawing(form(labels=["no such class"])),
        "20 MB of text": lambda: drawing(form(labels=["x" * 20_000_000])),
        "900 kB of text": lambda: drawing(form(labels=["x" * 900_000])),
        "text for a number": lambda: drawing(form(seed="seven")),
        "nothing for a number": lambda: drawing(form(width=None)),
        "a list for a number": lambda: drawing(form(steps=[1, 2])),
        "a solver that is code": lambda: drawing(form(solver="os:system")),
        "too few values": lambda: lambda page: page.call("draw", [1, 2]),
        "no JSON": lambda: lambda page: page.post("gradio_api/call/draw", b"{", "application/json"),
        "no picture": lambda: painting(form(), lambda page: None),
        "a mask of another size": lambda: painting(form(), lambda page: painted(page, flat, small)),
        "a mask of garbage": lambda: painting(form(), lambda page: painted(page, flat, garbage)),
        "a picture of garbage": lambda: painting(form(), lambda page: painted(page, garbage)),
        "a picture of 5000 pixels a side": lambda: painting(
            form(), lambda page: painted(page, large)
        ),
        "a mask that is text": lambda: painting(
            form(), lambda page: painted(page, flat) | {"layers": ["text", 3]}
        ),
        "a file of the machine": lambda: painting(
            form(), lambda page: painted(page, flat) | {"background": file_at("/etc/passwd")}
        ),
        "a path of the machine": lambda: lambda page: page.get("gradio_api/file=/etc/passwd"),
        "a file of another machine": lambda: painting(
            form(), lambda page: painted(page, flat) | {"background": file_at(address)}
        ),
        "a path of another machine": lambda: lambda page: page.get(f"gradio_api/file={address}"),
    }
    chosen = [good() if i % 2 else good_painting() for i in range(count // 2)]
    kinds = list(REFUSALS)
    chosen += [
        Visit(k, bad[k](), refusal=f"({REFUSALS[k]})")
        for k in (kinds[i % len(kinds)] for i in range(count - count // 2))
    ]
    rng.shuffle(chosen)
    return chosen


def pay(page: ServedPage, visit: Visit) -> tuple[str, list[np.ndarray] | None]:
    """Make a request; return in a word what came of it, and pictures."""
    try:
        return "pictures", visit.pay(page)
    except Refused as refusal:
        return f"refused: {refusal}", None


def judge(visit: Visit, found: str, pictures: Any, pipe: Pipeline) -> bool:
    """Return whether what came of a request is right."""
    if visit.expected is None:
        return re.match(f"refused: {visit.refusal}", found) is not None
    return pictures is not None and all(
        np.array_equal(*pair) for pair in zip(pictures, visit.expected(pipe), strict=True)
    )


def main() -> None:
    """Send the requests; write `benchmarks/results/web.csv`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(DIRTY, action="store_true", help="allow files that no revision holds")
    options = parser.parse_args()
    # A job in the background is deaf to Ctrl-C, and so the page that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pipe = Pipeline.from_pretrained(options.model)
    with serving(options.model) as page, ThreadPoolExecutor(options.clients) as clients:
        warm = visits(options.requests // 4, random.Random(options.seed + 1), pipe)
        list(clients.map(lambda visit: pay(page, visit), warm))
        before = page.memory_mib()
        chosen = visits(options.requests, random.Random(options.seed), pipe)
        found = list(clients.map(lambda visit: pay(page, visit), chosen))
        time.sleep(5)
        after, alive = page.memory_mib(), page.program.poll() is None
        page.get("")
    right, total = Counter[str](), Counter(visit.kind for visit in chosen)
    for visit, (word, pictures) in zip(chosen, found, strict=True):
        fine = judge(visit, word, pictures, pipe)
        right[visit.kind] += fine
        sys.stdout.write("" if fine else f"{visit.kind}: {word[:300]}\n")
    rows = [{"request": k, "sent": n, "right": right[k]} for k, n in sorted(total.items())]
    memory = {"mib_before": round(before), "mib_after": round(after)}
    grown, faults = after - before > MOST_GROWN_MIB, page.faults()
    for row in rows:
        sys.stdout.write(f"{row}\n")
    sys.stdout.write(
        f"{memory}, alive: {alive}, faults: {faults}, exit {page.program.returncode}\n"
    )
    write_table(RESULTS / "web.csv", rows, clients=options.clients, **memory)
    ended = alive and page.program.returncode == 0
    raise SystemExit(right != total or grown or bool(faults) or not ended)


if __name__ == "__main__":
    main()
