"""Growth of time and memory with the batch size and the number of sampling steps."""

from experiments.benchmark.networks import Options, case_of, cases_of
from experiments.benchmark.programs import in_turns, make, programs_of
from experiments.benchmark.rows import Tell, middle, say
from jaxdiff.parallel import Pmap


def growth(options: Options, tell: Tell) -> None:
    """Measures time per image against batch size, and sampling against its steps."""
    devices = len(Pmap(num_devices=options.devices).devices)
    for network, dtype in cases_of(options):
        most = case_of(options, network, dtype).batch
        doubled = [devices * 2**i for i in range(most.bit_length())]
        sizes = [size for size in doubled if size <= most]
        keys: list[tuple[str, int, int]] = []
        for what in programs_of(options, network):
            if what == "sample":
                keys += [(what, options.batch or devices, n) for n in options.lengths]
            else:
                keys += [(what, size, 0) for size in sizes]
        cases = {key: case_of(options, network, dtype, batch=key[1]) for key in keys}
        say(f"{network}, {dtype}: compiling {len(keys)} programs")
        programs = {key: make(cases[key], key[0], key[2]) for key in keys}
        times = in_turns(programs, options.rounds)
        for key in keys:
            what, size, steps = key
            row = cases[key].row(what, **middle(times[key], "seconds"))
            row |= {"s_per_image": row["seconds"] / size, **programs[key].memory}
            if steps:
                row |= {"steps": steps, "s_per_step": row["seconds"] / steps}
            tell(row)
