"""Papers whose claims the suite measures again: which there are, running one, and its verdict."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from rlsuite import er_rr, er_rr_report
from rlsuite.claims import Claim, Results, Task, markdown, table_csv
from rlsuite.errors import UserError


class Paper(NamedTuple):
    """What has to be known of a paper."""

    title: str
    tasks: Callable[[], list[Task]]
    run: Callable[[Task, int], Any]
    """Measure a task with a seed; done in another process."""
    claims: Callable[[Results], list[Claim]]
    draw: Callable[[Results, Path], list[Path]]
    """Write pictures into a folder; their paths."""


PAPERS: dict[str, Paper] = {
    "er-rr": Paper(er_rr.TITLE, er_rr.tasks, er_rr.run, er_rr_report.claims, er_rr_report.draw),
}
"""By the name that the command line knows."""


class Reproduction(NamedTuple):
    """What came of it."""

    claims: list[Claim]
    files: list[Path]
    warnings: list[str]

    @property
    def failures(self) -> list[Claim]:
        """Claims whose gate is not passed."""
        return [claim for claim in self.claims if claim.passed is False]


def find_paper(name: str) -> Paper:
    """The paper of a name. Raises UserError that suggests the nearest for an unknown one."""
    if name in PAPERS:
        return PAPERS[name]
    near = difflib.get_close_matches(name, PAPERS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(PAPERS)}"
    raise UserError(f"no paper called {name}: {hint}")


def reproduce(
    name: str, folder: Path, *, seed: int = 0, processes: int | None = None, quiet: bool = False
) -> Reproduction:
    """Measure a paper's claims and write ``results.md``, ``results.csv`` and pictures.

    ``processes`` is by default the number of cores this process may use; the figures do not depend
    on it. Raises UserError for an unknown paper, less than one process, or a file as folder.
    """
    paper = find_paper(name)
    processes = len(os.sched_getaffinity(0)) if processes is None else processes
    if processes < 1:
        raise UserError(f"--processes has to be 1 or more, not {processes}")
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    results = measure(paper, paper.tasks(), seed, processes, quiet)
    claims = paper.claims(results)
    head = f"# {paper.title}\n\nSeed {seed}. Uncertainties are standard errors over seeds.\n\n"
    files = [folder / "results.md", folder / "results.csv"]
    files[0].write_text(head + markdown(claims), "utf-8")
    files[1].write_text(table_csv(claims), "utf-8")
    warnings = []
    try:
        files += paper.draw(results, folder)
    except UserError as error:
        warnings.append(f"no pictures: {error}")  # the figures are good without them
    if not quiet:
        tqdm.write(f"measured in {time.monotonic() - began:.0f} s with {processes} processes")
    return Reproduction(claims, files, warnings)


def measure(
    paper: Paper, tasks: Sequence[Task], seed: int, processes: int = 1, quiet: bool = True
) -> dict[tuple[str, str], list[Any]]:
    """Run tasks, with a progress bar unless quiet; what was measured, in the order of the tasks."""
    found: dict[tuple[str, str], list[Any]] = {}
    work = _work(partial(_run, paper.run, seed), tasks, processes)
    bar = tqdm(total=len(tasks), unit="task", disable=quiet, mininterval=1)
    for task, value in zip(tasks, work, strict=True):
        bar.set_description(task.experiment, refresh=False)
        bar.update()
        found.setdefault((task.experiment, task.arm), []).append(value)
    bar.close()
    return found


def _run(run: Callable[[Task, int], Any], seed: int, task: Task) -> Any:
    return run(task, seed)


def _work(run: Callable[[Task], Any], tasks: Sequence[Task], processes: int) -> Iterator[Any]:
    if processes == 1:
        yield from map(run, tasks)
        return
    # A fork of a process with threads may hang; every core has a process of one thread.
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as pool:
        yield from pool.map(run, tasks)
