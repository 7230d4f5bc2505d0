"""Shares of the workers: every row once, in order, and as much work for each."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mosaicvi.nn.targets import FEW_ROWS, Job, divided

N_FEATURES = 10


@st.composite
def tasks(draw: st.DrawFn) -> tuple[list[list[Job]], list[float]]:
    jobs, costs = [], []
    for _ in range(draw(st.integers(1, 3))):
        mine, at = [], 0
        for n_rows in draw(st.lists(st.integers(1, 300), max_size=4)):
            chosen = draw(st.sampled_from([None, 1, 5, N_FEATURES]))
            picked = None if chosen is None else torch.arange(N_FEATURES) < chosen
            rows = torch.arange(at, at + n_rows)
            mine.append(Job(pick=rows, of_pass=rows % 2, chosen=picked))
            at += n_rows
        jobs.append(mine)
        costs.append(draw(st.floats(1, 1e6)))
    return jobs, costs


def work(job: Job, cost: float) -> float:
    return job.n_rows * cost * (1 if job.chosen is None else float(job.chosen.float().mean()))


@given(tasks(), st.integers(1, 8))
def test_every_row_is_in_one_share_with_its_pass_and_its_features(
    given_tasks: tuple[list[list[Job]], list[float]], n: int
) -> None:
    jobs, costs = given_tasks
    shares = divided(jobs, costs, n)
    assert [len(of_task) for of_task in shares] == [n] * len(jobs)
    for mine, of_task in zip(jobs, shares, strict=True):
        parts = [job for share in of_task for job in share]
        rows = [
            (int(r), int(p), job.chosen) for job in mine for r, p in zip(job.pick, job.of_pass, strict=True)
        ]
        found = [
            (int(r), int(p), job.chosen) for job in parts for r, p in zip(job.pick, job.of_pass, strict=True)
        ]
        assert [x[:2] for x in found] == [x[:2] for x in rows]
        assert all(a[2] is b[2] for a, b in zip(found, rows, strict=True))


@given(tasks(), st.integers(1, 8))
def test_shares_differ_by_no_more_than_what_is_not_worth_cutting(
    given_tasks: tuple[list[list[Job]], list[float]], n: int
) -> None:
    jobs, costs = given_tasks
    of_worker = [0.0] * n
    for of_task, cost in zip(divided(jobs, costs, n), costs, strict=True):
        for k, share in enumerate(of_task):
            of_worker[k] += sum(work(job, cost) for job in share)
    fair = sum(of_worker) / n
    dearest = max(
        (work(job, cost) / job.n_rows for mine, cost in zip(jobs, costs, strict=True) for job in mine),
        default=0,
    )
    assert all(abs(w - fair) <= 2 * FEW_ROWS * dearest + 1e-6 for w in of_worker)
