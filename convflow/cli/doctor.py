"""`convflow doctor`: versions, devices, the operator's active path and a short self-test."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from convflow import __version__
from convflow.cli.main import Parser
from convflow.cli.output import say
from convflow.units import duration

PACKAGES = "torch numpy numba triton safetensors pillow scikit-learn pyarrow datasets tensorboard"


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0 when the self-test passes and 1 when it does not."""
    parser = Parser(
        prog="convflow doctor",
        description="Print versions, devices and which code runs the operator. Then run a "
        "self-test of about five seconds. Please put the output into a bug report.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse(arguments)
    report = {"versions": _versions(), "devices": _devices(), "operator": _operator()}
    report["products"] = {"cpu": " - ".join(_products())}
    if not options.json:
        _print(report)
    tests = _self_test()
    report["self-test"] = tests
    if options.json:
        say(*json.dumps(report, indent=2).split("\n"))
    else:
        _print({"self-test": tests})
    return 0 if all(result.startswith("ok") for result in tests.values()) else 1


def _versions() -> dict[str, str]:
    found = {"convflow": __version__, "python": platform.python_version()}
    found["system"] = f"{platform.system()} {platform.machine()}"
    for name in PACKAGES.split():
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _devices() -> dict[str, str]:
    import torch

    from convflow.distributed import choose_device, has_fast_bfloat16

    device = choose_device()
    fast = "fast bfloat16" if has_fast_bfloat16(device) else "float32"
    found = {
        "cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "auto": f"{device} ({fast})",
    }
    for index in range(torch.accelerator.device_count() if device.type != "cpu" else 0):
        found[f"{device.type}:{index}"] = _accelerator(index)
    return found


def _accelerator(index: int) -> str:
    import torch

    if not torch.cuda.is_available():
        return "available"
    properties = torch.cuda.get_device_properties(index)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _operator() -> dict[str, str]:
    from convflow.distributed import choose_device
    from convflow.ops.deform.op import backend_and_reason

    kinds = dict.fromkeys(("cpu", choose_device().type))
    return {kind: " - ".join(filter(None, backend_and_reason(kind))) for kind in kinds}


def _products() -> tuple[str, str]:
    from convflow.nn.linear import fastest_engine

    return fastest_engine()


def _self_test() -> dict[str, str]:
    checks: dict[str, Any] = {
        "operator forward": partial(_check_operator, False),
        "operator gradients": partial(_check_operator, True),
        "train and sample": _check_training,
    }
    results = {}
    for name, run in checks.items():
        began = time.perf_counter()
        try:
            run()
            results[name] = f"ok ({duration(time.perf_counter() - began)})"
        except Exception as error:
            results[name] = f"FAILED: {' '.join(str(error).split()) or type(error).__name__}"
    return results


def _check_operator(backward: bool) -> None:
    """Compare the operator, or its gradients, with the reference on every device."""
    import torch

    from convflow.distributed import choose_device
    from convflow.ops import deform_sample
    from convflow.ops.deform import reference

    values, offsets, weights = (part.double() for part in _operator_inputs())
    wanted = [reference.deform_sample(values, offsets, weights, "zeros")]
    if backward:
        ones = torch.ones_like(values)
        wanted = [*reference.deform_sample_backward(ones, values, offsets, weights, "zeros")]
    limit = 1e-3 if backward else 1e-4
    for device in {torch.device("cpu"), choose_device()}:
        inputs = [part.to(device).requires_grad_(backward) for part in _operator_inputs()]
        out = deform_sample(*inputs)
        found = torch.autograd.grad(out.sum(), inputs) if backward else [out]
        for got, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(got.cpu(), want.float(), rtol=limit, atol=limit)


def _operator_inputs() -> list[Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (2, 7, 5, 3)
    return [
        torch.randn(*shape, 16, generator=generator),
        torch.randn(*shape, 9, 2, generator=generator) * 3,
        torch.randn(*shape, 9, generator=generator),
    ]


def _check_training() -> None:
    import torch

    from convflow.distributed import choose_device
    from convflow.models.zoo import create_model
    from convflow.processes.flow import FlowMatching
    from convflow.samplers.ode import integrate, time_grid
    from convflow.seeds import draw_noise

    device = choose_device()
    settings = {"width": 32, "depth": 2, "num_groups": 2, "in_channels": 1, "num_classes": 2}
    model, process = create_model("flowdcn", **settings).to(device), FlowMatching()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator(device).manual_seed(0)
    data = torch.zeros(32, 1, 8, 8, device=device)
    labels = torch.arange(32, device=device) % 2
    data += (labels * 2.0 - 1).view(-1, 1, 1, 1)
    losses = []
    for _ in range(60):
        loss = process.loss(model, data, labels, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if not losses[-1] < 0.5 * losses[0]:
        raise RuntimeError(f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f} only")
    noise = draw_noise(0, range(4), (1, 8, 8)).to(device)
    x = integrate(model.eval(), noise, labels[:4], time_grid(10))
    if not bool(x.isfinite().all()):
        raise RuntimeError("samples are not finite")


def _print(report: dict[str, dict[str, str]]) -> None:
    for title, rows in report.items():
        say(title)
        for name, value in rows.items():
            say(f"  {name:20} {value}")
