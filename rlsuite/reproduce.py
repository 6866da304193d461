"""Papers whose claims the suite measures again: which there are, running one, and its verdict."""

from __future__ import annotations

import difflib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from rlsuite import (
    __version__,
    adherence_claims,
    adherence_report,
    drpg_claims,
    drpg_plots,
    drpg_report,
    er_rr,
    er_rr_report,
    hasac_claims,
    hasac_report,
)
from rlsuite.build import find_commit
from rlsuite.claims import Claim, Results, Task, markdown, table_csv
from rlsuite.errors import UserError

GRACE_SECONDS = 60
"""What a run has to save itself when the process that measures has been killed."""


class Paper(NamedTuple):
    """What has to be known of a paper."""

    title: str
    tasks: Callable[[], list[Task]]
    run: Callable[[Task, int, Path], Any]
    """Measure a task with a seed; done in another process. What takes long may be kept below the
    folder, so that an interrupted reproduction goes on from there."""
    claims: Callable[[Results], list[Claim]]
    draw: Callable[[Results, Path], list[Path]]
    """Write pictures into a folder; their paths."""


PAPERS: dict[str, Paper] = {
    "er-rr": Paper(er_rr.TITLE, er_rr.tasks, er_rr.run, er_rr_report.claims, er_rr_report.draw),
    "hasac": Paper(
        hasac_claims.TITLE,
        hasac_claims.tasks,
        hasac_claims.run,
        hasac_report.claims,
        hasac_report.draw,
    ),
    "drpg": Paper(
        drpg_claims.TITLE,
        drpg_claims.tasks,
        drpg_claims.run,
        drpg_report.claims,
        drpg_plots.draw,
    ),
    "adherence": Paper(
        adherence_claims.TITLE,
        adherence_claims.tasks,
        adherence_claims.run,
        adherence_report.claims,
        adherence_report.draw,
    ),
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
    name: str,
    folder: Path,
    *,
    only: str = "",
    seed: int = 0,
    processes: int | None = None,
    quiet: bool = False,
) -> Reproduction:
    """Measure a paper's claims and write ``results.md``, ``results.csv`` and pictures.

    ``only`` leaves out the experiments whose names do not begin with it. ``processes`` is by
    default the number of cores this process may use; the figures do not depend on it. Raises
    UserError for an unknown paper, no experiment, less than one process, a seed below 0, or a file
    as folder, and ``run.Stopped`` if a training run was stopped: it has saved itself.
    """
    paper = find_paper(name)
    tasks = [task for task in paper.tasks() if task.experiment.startswith(only)]
    if not tasks:
        known = "; ".join(dict.fromkeys(task.experiment for task in paper.tasks()))
        raise UserError(f"no experiment of {name} begins with {only!r}; there are: {known}")
    processes = len(os.sched_getaffinity(0)) if processes is None else processes
    if processes < 1:
        raise UserError(f"--processes has to be 1 or more, not {processes}")
    if seed < 0:
        raise UserError(f"--seed has to be 0 or more, not {seed}")
    folder.mkdir(parents=True, exist_ok=True)
    commit = find_commit()  # before anything is measured: the checkout may move on
    began = time.monotonic()
    results = measure(paper, tasks, seed, folder, processes, quiet)
    claims = paper.claims(results)
    code = f"rlsuite {__version__}" + (f" at commit {commit}" if commit else "")
    head = f"# {paper.title}\n\nSeed {seed}, {code}. Uncertainties are standard errors over "
    head += "repetitions, brackets hold 95 % intervals: by bootstrap, of shares Wilson's.\n\n"
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
    paper: Paper,
    tasks: Sequence[Task],
    seed: int,
    folder: Path,
    processes: int = 1,
    quiet: bool = True,
) -> dict[tuple[str, str], list[Any]]:
    """Run tasks, with a progress bar unless quiet; what was measured, in the order of the tasks."""
    values: dict[int, Any] = {}
    bar = tqdm(total=len(tasks), unit="task", disable=quiet, mininterval=1)
    for i, value in _work(partial(_run, paper.run, seed, folder), tasks, processes):
        values[i] = value
        bar.set_description(tasks[i].experiment, refresh=False)
        bar.update()
    bar.close()
    found: dict[tuple[str, str], list[Any]] = {}
    for i, task in enumerate(tasks):
        found.setdefault((task.experiment, task.arm), []).append(values[i])
    return found


def _run(run: Callable[[Task, int, Path], Any], seed: int, folder: Path, task: Task) -> Any:
    return run(task, seed, folder)


def _work(
    run: Callable[[Task], Any], tasks: Sequence[Task], processes: int
) -> Iterator[tuple[int, Any]]:
    """Number of a task and what came of it, as they end; every one has a single thread."""
    if processes == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from enumerate(map(run, tasks))
        finally:
            torch.set_num_threads(threads)
        return
    with single_threaded(processes) as pool:
        running: dict[Future[Any], int] = {}
        for i, task in enumerate(tasks):
            # No more than run at once: what waits in the pool would still begin after Ctrl-C.
            if len(running) == processes:
                yield from _ended(running)
            running[pool.submit(run, task)] = i
        while running:
            yield from _ended(running)


def single_threaded(processes: int) -> ProcessPoolExecutor:
    """Processes of one thread each, which end with this one, by whatever signal that ends."""
    # A fork of a process with threads may hang.
    return ProcessPoolExecutor(processes, get_context("spawn"), _begin_process)


def _begin_process() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)  # a run saves itself
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def _ended(running: dict[Future[Any], int]) -> Iterator[tuple[int, Any]]:
    """Wait until one or more have ended, and take them out."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        yield running.pop(future), future.result()
