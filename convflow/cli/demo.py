"""`convflow demo`: train on handwritten digits and draw a page, in about two minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convflow.cli.main import Parser
from convflow.cli.output import plain, say

NEXT = """{page}  <- samples beside real digits
{run}/samples  <- samples during training

Try next:
  convflow sample {run} --labels 3,8 --num 20 --seed 7 --out digits.png
  convflow sample {run} --size 12x8 --guidance 3 --out tall.png
  convflow train pictures.flowdcn --data path/to/your/folder"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0 with the page drawn, 130 when training was interrupted."""
    if arguments[:1] == ["web"]:
        from convflow.cli import demo_web

        return demo_web.main(arguments[1:])
    parser = Parser(
        prog="convflow demo",
        description="Train a small FlowDCN on 1,797 handwritten digits (at most two minutes on "
        "two idle cores), then draw a page of samples. A second call does not train again; to "
        "train again, remove the run folder.",
    )
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="run folder")
    run = parser.parse(arguments).run

    from convflow.demo.digits import run_demo

    page = run_demo(run)
    if page is None:
        say(f"saved; go on with: convflow demo --run {run}")
        return 130
    say(*NEXT.format(page=plain(page), run=plain(run)).split("\n"))
    return 0
