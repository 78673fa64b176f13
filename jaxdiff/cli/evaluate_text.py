"""The command `evaluate` for a model of text: how well samples show their prompts."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff import plots
from jaxdiff.cli.attribute_figures import Readers, values_of
from jaxdiff.cli.evaluate_towers import agreement_figures
from jaxdiff.cli.fidelity_figures import (
    fidelity_figures,
    fidelity_settings,
    sampler_line,
    save_nearest,
)
from jaxdiff.cli.figures import Figure, publish
from jaxdiff.cli.progress import bar
from jaxdiff.cli.quality_options import PromptOptions, build_features, sampling_record
from jaxdiff.data.attributes import Values
from jaxdiff.errors import InputError
from jaxdiff.evaluation.fidelity import LEAST, evaluate_samples, most_samples
from jaxdiff.evaluation.prompted import (
    Captioned,
    Real,
    check_prompts,
    draw,
    draw_variations,
)
from jaxdiff.evaluation.text_agreement import agreement_of, check_texts
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.folder import read_config
from jaxdiff.runs.run import Run
from jaxdiff.runs.towers import TowersRun, load_towers
from jaxdiff.runs.vectors import is_decoder

MOST, LARGEST = 1000, 10_000
"""Largest number of samples of a set by default, and at all."""
SHOWN, COLUMNS = 16, 8
"""Number of pairs in prompts.png, and images per row."""
PROMPTS = "prompts.png"
"""Picture of real images, each with a sample of its caption."""


class Drawn(NamedTuple):
    """Samples of a set of captions.

    Attributes:
        real: real images with their captions.
        rows: image of the set whose caption each sample has, integers [num].
        images: samples, uint8 [num, height, width, channels].
    """

    real: Captioned
    rows: np.ndarray
    images: np.ndarray

    @property
    def texts(self) -> list[str]:
        """Prompt of each sample."""
        return [self.real.texts[row] for row in self.rows]


def evaluate_text(options: PromptOptions, run: Run) -> None:
    """Evaluates samples of training captions and of held-out ones.

    Args:
        options: options of the command.
        run: the trained model.

    Raises:
        InputError: the model takes more than prompts; its images or their captions are
            not there; the towers are of other images; or a number is out of range.
    """
    check_prompts(run)
    stored = read_config(options.workdir)[0].data
    towers = None
    if options.towers is not None:
        towers = load_towers(options.towers, parallel=run.parallel)
    real = Real.of(run, stored, towers)
    training, held_out = real.training, real.held_out
    num = options.samples
    if num is None:
        num = min(len(held_out) or len(training), MOST)
    if not LEAST <= num <= LARGEST:
        raise InputError(
            f"samples must lie in {LEAST}..{LARGEST} for a model of text, got {num}"
        )
    sampling, features = options.sampling_of(run), options.features_of(training)
    others = options.others(num)
    plots.check_installed()
    sets = [
        one
        for one in (
            Captioned.of("seen", "train", training, num),
            Captioned.of("held out", "test", held_out, num),
        )
        if one.texts
    ]
    if not sets:
        raise InputError("data must have a caption that is not empty, got none.")
    if towers is not None:
        for one in sets:
            check_texts(len(set(one.texts)))
    splits = {"train": training} | {
        one.split: held_out for one in sets if one.split == "test"
    }
    values = values_of(options.reader_steps, real.data, splits)
    compared = min(num, most_samples(training, held_out))
    extractor = None
    if compared:
        extractor = build_features(features, training, held_out, run.parallel)
    readers = Readers.of(options.reader_steps, training, values["train"], run.parallel)
    drawn = []
    works = list(_works(run, sets))
    with bar(num * len(works), "sample") as on_chunk:
        for i, (one, varied) in enumerate(works):
            rows = one.repeated(num)
            given = options.seed, sampling, partial(on_chunk, before=i * num)
            if varied:
                images = draw_variations(run, one.images[rows], *given)
            else:
                images = draw(run, [one.texts[row] for row in rows], *given)
            drawn.append(Drawn(one, rows, images))

    by = sampler_line(num, sampling)
    settings: dict[str, Any] = {
        "step": run.step, "seed": options.seed, "num": num, **sampling_record(sampling)
    }  # fmt: skip
    shown: dict[str, list[Figure]] = {}
    if towers is not None:
        settings["towers"] = {"workdir": str(options.towers), "step": towers.step}
        for of_set in drawn:
            texts, name = of_set.real.texts, of_set.real.name
            heading = f"{by} of {len(texts)} captions, {name}; towers"
            found = list(_agreements(towers, of_set, by))
            shown[f"{heading} of step {towers.step}"] = found
    if readers.each:
        settings |= readers.settings()
        shown[f"share of {by} whose attribute is read as asked"] = [
            figure for of_set in drawn
            for figure in _shares(readers, values[of_set.real.split], of_set, by)
        ]  # fmt: skip
    fidelity = None
    if extractor is not None:
        fidelity = evaluate_samples(
            run, training, held_out, extractor, num=compared, sampling=sampling,
            images=drawn[0].images[:compared], others=others and others[1],
        )  # fmt: skip
        settings["samples"] = fidelity_settings(compared, sampling, extractor, fidelity)
        shown |= fidelity_figures(fidelity, compared, sampling, extractor, others)
    if not is_first():
        return
    pictures = [_save_prompts(options.workdir, drawn[len(sets) - 1])]
    if fidelity is not None:
        pictures.append(save_nearest(options.workdir, fidelity))
    publish(options.workdir, shown, settings, options.json, pictures)


def _works(run: Run, sets: Sequence[Captioned]) -> Iterator[tuple[Captioned, bool]]:
    """Yields what to draw, and True for variations of the images themselves."""
    decodes = is_decoder(run.experiment)
    if run.prior is not None or not decodes:
        yield from ((one, False) for one in sets)
    if decodes:
        for one in sets:
            yield one._replace(name=f"{one.name}, variations"), True


def _agreements(towers: TowersRun, drawn: Drawn, by: str) -> Iterator[Figure]:
    """Yields the figures of samples and of real images by the towers."""
    name, real = drawn.real.name, drawn.real
    note = f"{by}, {len(set(real.texts))} different captions, {name}"
    found = agreement_of(towers, drawn.images, drawn.texts)
    yield from agreement_figures(found, f", {name}", note)
    of_real = agreement_of(towers, real.images, real.texts)
    note = f"{len(real.texts)} real images, {of_real.texts} different captions, {name}"
    yield from agreement_figures(of_real, f", {name}, real (baseline)", note)
    yield Figure(f"found by chance, {name}", 1 / found.texts, unit="share", note=note)


def _shares(
    readers: Readers, values: Values, drawn: Drawn, by: str
) -> Iterator[Figure]:
    """Yields the share of samples whose attributes are read as asked."""
    name, real = drawn.real.name, drawn.real
    yield from readers.figures(
        values, real.places, real.images, drawn.rows, drawn.images,
        learned=real.split == "train", by=f"{by}, {name}",
        names=(f"{{}} as asked, {name}", f"{{}} of real images, {name} (baseline)"),
    )  # fmt: skip


def _save_prompts(workdir: Path, drawn: Drawn) -> str:
    """Writes pairs of a real image and a sample; returns the picture's name."""
    count = min(SHOWN, len(drawn.real.texts), len(drawn.images))
    pairs = np.stack([drawn.real.images[:count], drawn.images[:count]], axis=1)
    texts = [text for text in drawn.real.texts[:count] for _ in range(2)]
    plots.save_captioned(
        workdir / PROMPTS, pairs.reshape(-1, *pairs.shape[2:]), texts, columns=COLUMNS
    )
    return PROMPTS
