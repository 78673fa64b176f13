"""The command `evaluate` for two towers: how well they match real images and texts."""

from pathlib import Path

from jaxdiff.cli.figures import Figure, publish
from jaxdiff.cli.progress import bar
from jaxdiff.cli.quality_options import checked_num
from jaxdiff.data import Dataset
from jaxdiff.evaluation.prompted import Captioned
from jaxdiff.evaluation.text_agreement import Agreement, agreement_of
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.towers import TowersRun


def evaluate_towers(
    run: TowersRun,
    workdir: Path,
    data: tuple[Dataset, Dataset],
    split: str,
    num: int | None,
    as_json: bool,
) -> None:
    """Measures retrieval among real images and captions; prints and writes figures.

    Args:
        run: the towers.
        workdir: their run folder; evaluation.json goes there.
        data: training images and held-out images.
        split: the split to match, "test" or "train".
        num: number of images; None takes all, at most 10,000.
        as_json: if True, print JSON alone.

    Raises:
        InputError: there are too few images with captions.
    """
    dataset = data[split == "test"]
    num = checked_num(num, dataset, split)
    given = Captioned.of(split, split, dataset, num)
    with bar(len(given.texts), "images") as on_chunk:
        found = agreement_of(run, given.images, given.texts, on_chunk)
    if not is_first():
        return
    note = f"{len(given.texts)} {split} images, {found.texts} different captions"
    settings = {"step": run.step, "split": split, "images": len(given.texts)}
    heading = f"{note} (text found: share of images whose nearest caption is theirs)"
    chance = Figure("found by chance", 1 / found.texts, unit="share", note=note)
    shown = {heading: [*agreement_figures(found, "", note), chance]}
    publish(workdir, shown, settings, as_json)


def agreement_figures(found: Agreement, of: str, note: str) -> list[Figure]:
    """Returns the figures of an agreement; `of` follows their names."""
    return [
        Figure(f"text found{of}", found.text_found, unit="share", note=note),
        Figure(f"image found{of}", found.image_found, unit="share", note=note),
        Figure(f"CLIP-score{of}", *found.score, note=note),
        Figure(f"CLIP-score of other captions{of}", *found.others, note=note),
    ]
