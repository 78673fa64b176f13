"""Pmap and Sharded, one by one; test_layouts.py compares their results."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from experiments.scaling import seconds_to_send, sent
from jaxdiff.parallel import alone
from jaxdiff.parallel.sharded import SMALL
from jaxdiff.training.step import averaged, scan_steps

LAYOUTS = [
    jd.parallel.Pmap(num_devices=1),
    jd.parallel.Pmap(num_devices=2),
    jd.parallel.Pmap(),
    jd.parallel.Sharded(data=8),
    jd.parallel.Sharded(data=4, fsdp=2),
    jd.parallel.Sharded(),
]


def state_on(parallel, width=SMALL):
    """Returns a state of a large and a small array on devices, and its shardings."""
    init = lambda: {"w": jnp.zeros((3, width)), "n": jnp.zeros((), jnp.int32)}  # noqa: E731
    shardings = parallel.shardings(jax.eval_shape(init))
    return parallel.localize(jax.jit(init, out_shardings=shardings)()), shardings


@pytest.mark.parametrize("parallel", LAYOUTS, ids=str)
def test_a_step_averages_over_the_batch_and_donates_its_state(parallel):
    state, shardings = state_on(parallel)
    traces = []

    def step(state, batch, mean_of):
        traces.append(1)

        def squares(w, share):
            assert w.shape == (3, SMALL)  # whole, although it is stored in parts
            return {"w": (w + share.mean(axis=0)) ** 2, "rows": len(share) + share[0]}

        found = mean_of(squares, state["w"], batch)
        return {"w": found["w"], "n": state["n"] + 1}, found["rows"].mean()

    compiled = parallel.step(step)
    rows = np.arange(16 * 3 * SMALL, dtype=np.float32).reshape(16, 3, SMALL) / 4096
    count = len(parallel.devices)
    w = np.zeros((3, SMALL))
    for _ in range(3):
        before = state
        state, length = compiled(before, rows)
        assert before["w"].is_deleted()
        shares = rows.reshape(count, -1, 3, SMALL).mean(axis=1, dtype=np.float64)
        w = ((w + shares) ** 2).mean(axis=0)
        firsts = rows[:: 16 // count]
        np.testing.assert_allclose(length, 16 / count + firsts.mean(), rtol=1e-6)
        np.testing.assert_allclose(state["w"], w, rtol=1e-5)
    assert int(state["n"]) == 3
    left = parallel.globalize(state)
    assert left["w"].sharding.is_equivalent_to(shardings["w"], 2)
    # A second trace would mean that the state came back with another sharding.
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("shape", "parts", "axis"),
    [
        ((3, 3, 64, 128), 8, 3),
        ((3, 3, 128, 64), 8, 2),
        ((3, 3, 64, 64), 8, 3),  # the last of the longest axes
        ((3, 3, 100, 64), 8, 3),  # 8 does not divide 100
        ((1026, 7), 8, None),
        ((1023,), 1, None),
        ((SMALL - 8,), 8, None),  # too small to split
        ((SMALL,), 8, 0),
        ((), 8, None),
    ],
)
def test_the_longest_axis_that_divides_is_split(shape, parts, axis):
    parallel = jd.parallel.Sharded(data=8 // parts, fsdp=parts)
    place: Any = parallel.shardings(jax.ShapeDtypeStruct(shape, jnp.float32))
    assert tuple(place.spec) == (() if axis is None else (None,) * axis + ("fsdp",))


@pytest.mark.parametrize(
    ("parallel", "expected"),
    [
        (jd.parallel.Sharded(), ["all-gather", "reduce-scatter"]),
        (
            jd.parallel.Sharded(data=4, fsdp=2),
            ["all-gather", "all-reduce", "reduce-scatter"],
        ),
        (jd.parallel.Sharded(data=8), ["all-reduce"]),
    ],
    ids=str,
)
def test_what_is_sent(parallel, expected):
    """The devices exchange parameters and gradients, and no activations."""
    state, _ = state_on(parallel, 8 * SMALL)

    def step(state, batch, mean_of):
        def gradient(w, share):
            return jax.grad(lambda w: jnp.tanh(share @ w).mean())(w)

        return {**state, "w": state["w"] - mean_of(gradient, state["w"], batch)}, {}

    def run(state, batch):
        state, metrics = step(state, batch, parallel._mean_of)
        place = jax.lax.with_sharding_constraint
        return place(state, parallel.shardings(state)), metrics

    batch = parallel._spread(np.zeros((16, 3), np.float32))
    text: Any = jax.jit(run).lower(state, batch).compile().as_text()
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    found = re.findall(rf" f32\[([\d,]+)\]\S* ({kinds})\(", text)
    assert len(found) == len(re.findall(rf" (?:{kinds})(?:-start)?\(", text))
    assert sorted(kind for _, kind in found) == expected
    data, fsdp = parallel.mesh.devices.shape
    times = {
        "all-gather": (fsdp - 1) / fsdp,
        "reduce-scatter": fsdp - 1,  # its result is a part
        "all-reduce": 2 * (data - 1) / data,
    }
    sizes = [4 * np.prod([int(s) for s in shape.split(",")]) for shape, _ in found]
    total = sum(
        size * times[kind] for size, (_, kind) in zip(sizes, found, strict=True)
    )
    assert total == sent(state["w"].nbytes, data, fsdp)


def test_sending_between_machines():
    # Four machines of eight devices: twice 7/8 inside, then twice 3/4 of 1/8 outside.
    found = seconds_to_send(1.0, 32, 8, inside=10.0, outside=1.0)
    assert found == pytest.approx(2 * 7 / 8 / 10 + 2 * 3 / 4 / 8)
    assert seconds_to_send(1.0, 4, 8, 10.0, 1.0) == pytest.approx(2 * 3 / 4 / 10)
    assert seconds_to_send(1.0, 4, 1, 10.0, 1.0) == pytest.approx(2 * 3 / 4)
    assert seconds_to_send(1.0, 1, 8, 10.0, 1.0) == 0


@pytest.mark.parametrize("parallel", LAYOUTS, ids=str)
def test_map_keeps_the_order(parallel):
    state, _ = state_on(parallel)
    doubled = parallel.map(lambda shared, x: {"y": 2 * x + shared["w"][0, :1]})
    rows = np.arange(16, dtype=np.float32)
    np.testing.assert_array_equal(doubled(state, rows)["y"], 2 * rows)


def test_a_batch_is_read_by_the_row():
    rows = jd.parallel.Sharded(data=2, fsdp=4).rows(16)
    np.testing.assert_array_equal(rows, np.arange(16))  # one process reads all
    np.testing.assert_array_equal(jd.parallel.Pmap().rows(8), np.arange(8))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_accumulation_averages(parts):
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    fn = lambda batch: {"a": (batch**2).mean(axis=0), "n": jnp.float32(len(batch))}  # noqa: E731
    found = averaged(fn, jnp.asarray(rows), parts)
    np.testing.assert_allclose(found["a"], (rows**2).mean(axis=0), rtol=1e-6)
    assert float(found["n"]) == 8 / parts


@pytest.mark.parametrize("parts", [3, 16])
def test_accumulation_refuses_parts_that_do_not_divide_the_batch(parts):
    with pytest.raises(jd.InputError, match="accumulate must divide the 8 examples"):
        averaged(lambda batch: batch.mean(), jnp.zeros((8, 3)), parts)


@pytest.mark.parametrize("parallel", LAYOUTS[2:], ids=str)
def test_rows_that_the_devices_do_not_divide_are_refused(parallel):
    with pytest.raises(jd.InputError, match="must be a multiple of the 8 devices"):
        parallel.place(np.zeros((12, 3), np.float32))


@pytest.mark.parametrize("count", [1, 3])
def test_several_steps_are_as_many_single_ones(count):
    def step(state, batch, mean_of):
        mean = mean_of(lambda _, share: share.mean(axis=0), (), batch)
        return 2 * state + mean, {"mean": mean}

    rows = np.arange(8 * count, dtype=np.float32).reshape(8, count)
    state, metrics = jax.jit(lambda s, b: scan_steps(step)(s, b, alone))(
        jnp.float32(1), rows
    )
    expected = 1.0
    for i in range(count):
        expected = 2 * expected + rows[:, i].mean()
    assert float(state) == expected
    np.testing.assert_array_equal(metrics["mean"], rows.mean(axis=0))


def test_a_batch_that_the_devices_do_not_divide():
    for parallel in (jd.parallel.Pmap(), jd.parallel.Sharded(data=2)):
        with pytest.raises(ValueError, match=r"8 devices, got 12\. Use 8 or 16"):
            parallel.check_batch_size(12)
        with pytest.raises(ValueError, match=r"8 devices, got 3\. Use 8"):
            parallel.map(lambda _, x: x)((), np.zeros(3))
    with pytest.raises(ValueError, match=r"times 3 accumulated parts, got 32\. Use 24"):
        jd.parallel.Pmap().check_batch_size(32, 3)


def test_a_layout_that_the_devices_do_not_fill():
    with pytest.raises(ValueError, match="data must divide the 8 devices, got 3"):
        jd.parallel.Sharded(data=3).mesh  # noqa: B018
    with pytest.raises(ValueError, match="for 16 devices, got 8"):
        jd.parallel.Sharded(data=4, fsdp=4).devices  # noqa: B018
    with pytest.raises(ValueError, match="for 9 devices, got 8"):
        jd.parallel.Pmap(num_devices=9).devices  # noqa: B018
    for wrong in ({"num_devices": 0},):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            jd.parallel.Pmap(**wrong)
    for wrong in ({"data": 0}, {"fsdp": 0}):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            jd.parallel.Sharded(**wrong)
