"""The default form: speed, memory and utilisation."""

import statistics

import jax

from experiments.benchmark.networks import AnyCase, Case, Options, case_of, cases_of
from experiments.benchmark.programs import in_turns, make, matmul, programs_of
from experiments.benchmark.rows import Tell, ratio, say
from experiments.benchmark.trainer import feed, trainer
from jaxdiff.parallel import Parallel, Pmap, Sharded

PEAKS = {
    "h100 pcie": 756e12, "h100": 989e12, "h200": 989e12, "a100": 312e12,
    "tpu v4": 275e12, "tpu v5 lite": 197e12, "tpu v5e": 197e12, "tpu v5": 459e12,
    "tpu v6": 918e12,
}  # fmt: skip
"""Dense bfloat16 operations per second, by a part of the device's name; the first match
counts. From NVIDIA's data sheets of A100, H100, H200 and Google Cloud's TPU pages."""


def peak_of(options: Options, dtype: str) -> float | None:
    """Returns the peak operations per second of a device, or None if unknown.

    By default a GPU computes float32 as TF32, at half the speed, and a TPU as bfloat16.
    """
    if options.peak_tflops:
        return 1e12 * options.peak_tflops
    kind = jax.devices()[0].device_kind.lower()
    peak = next((peak for name, peak in PEAKS.items() if name in kind), None)
    halved = dtype == "float32" and jax.default_backend() == "gpu"
    return peak / 2 if peak and halved else peak


def speeds(options: Options, tell: Tell) -> None:
    """Runs the default form."""
    for network, dtype in cases_of(options):
        names = programs_of(options, network)
        if names:
            say(f"{network}, {dtype}: compiling {', '.join(names)}")
            speeds_of(options, tell, case_of(options, network, dtype))
    if "layouts" in options.what:
        layouts(options, tell)
    if "trainer" in options.what:
        trainer(options, tell)
    if "feed" in options.what:
        feed(options, tell)


def speeds_of(options: Options, tell: Tell, case: AnyCase) -> None:
    """Measures all rows of one network and type; the programs take turns."""
    names, steps = programs_of(options, case.network), options.steps
    programs = {what: make(case, what, steps) for what in names}
    programs["matmul"] = matmul(case.layout, case.dtype)
    repeats = {"forward": steps} if "sample" in names else {}
    flops = {what: program.flops() for what, program in programs.items()}
    times = in_turns(programs, options.rounds, repeats)
    rates = {what: flops[what] / statistics.median(times[what]) for what in programs}
    peak = peak_of(options, case.dtype)
    for what in names:
        seconds = statistics.median(times[what])
        row = case.row(
            what, seconds=seconds, images_per_s=case.batch / seconds,
            gflop_per_image=flops[what] / case.batch / 1e9,
            tflop_per_s=rates[what] / 1e12, of_matmul=rates[what] / rates["matmul"],
            **programs[what].memory,
        )  # fmt: skip
        if peak:
            row["mfu"] = rates[what] / peak / len(case.layout.devices)
        if what == "sample":
            row |= {"steps": steps, "evaluations_per_s": steps * case.batch / seconds}
            if "forward" in names:
                loop = [steps * forward for forward in times["forward"]]
                row |= ratio(times[what], loop, "forwards")
        tell(row)


def layouts(options: Options, tell: Tell) -> None:
    """Measures the train step with Sharded and Pmap, of the first network and type."""
    say("layouts: compiling train_step with pmap and sharded")
    pmap = Pmap(num_devices=options.devices)
    both: tuple[Parallel, ...] = (pmap, Sharded(fsdp=len(pmap.devices)))
    cases = [Case.of(options, *cases_of(options)[0], parallel=each) for each in both]
    programs = {type(c.layout): make(c, "train_step") for c in cases}
    times = in_turns(programs, options.rounds)
    seconds = statistics.median(times[Sharded])
    row = cases[1].row(
        "layouts", seconds=seconds, images_per_s=cases[1].batch / seconds
    )
    tell(
        {
            **row,
            **programs[Sharded].memory,
            **ratio(times[Sharded], times[Pmap], "pmap"),
        }
    )
