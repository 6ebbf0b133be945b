"""Trials -> outcomes, on Ray: on this machine, or on a cluster that is up."""

import os
import time
from dataclasses import dataclass, replace
from typing import Any

from commands.sweeps import trial, worker
from commands.sweeps.worker import Board, Job, run_on_node
from shared.kit.stage import StageError, one_line

LIVES = 4  # how often a trial may be begun: it is not the trial's fault when a node goes
CANCEL_SECONDS = worker.GRACE_SECONDS + 15


@dataclass
class Running:
    """A trial under way: what was asked for, when it began, and how often."""

    job: Job
    since: float
    begun: int = 1


class Cluster:
    """Ray, as far as a sweep needs it.

    Args:
        address: Of a cluster that is up; None starts one on this machine, which ends with this process.
        jobs: How many trials run at once; None is as many as there are cores.
        gpus: How many GPUs a trial has; a fraction shares one.
    """

    def __init__(self, address: str | None, jobs: int | None, gpus: float) -> None:
        # Trials are what this machine is for: Ray would give them only what other processes leave.
        settings = {"USAGE_STATS_ENABLED": "0", "ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "worker_niceness": "0"}
        for name, value in settings.items():
            os.environ.setdefault(f"RAY_{name}", value)
        import ray

        self._ray = ray
        cores = os.cpu_count() or 1
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
        try:
            if address is None:
                ray.init(address="local", num_cpus=max(cores, jobs or 1), _node_ip_address="127.0.0.1", **options)
            else:
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray raises whatever it met
            raise StageError(f"no Ray cluster at {address or 'this machine'}: {one_line(error)}") from None
        total = int(ray.cluster_resources().get("CPU", 1))
        self.jobs = jobs or total
        self.threads = max(1, (cores if address is None else total) // self.jobs)
        for module in (trial, worker):  # the nodes have none of our files
            ray.cloudpickle.register_pickle_by_value(module)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        self._board = ray.remote(Board).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()
        self._task = ray.remote(run_on_node).options(num_cpus=self.threads, num_gpus=gpus, max_retries=LIVES - 1)
        self.running: dict[Any, Running] = {}

    def submit(self, job: Job, node: str | None = None) -> None:
        """Begin a trial as soon as there is room; on the node that has its finished experiment, if that is up."""
        task = self._task
        if node and f"node:{node}" in self._ray.cluster_resources():
            task = task.options(resources={f"node:{node}": 0.001})
        job = replace(job, threads=self.threads)
        self.running[task.remote(job, self._board)] = Running(job, time.time())

    def finished(self, timeout: float) -> list[tuple[Job, dict[str, Any]]]:
        """The outcomes of trials that have ended meanwhile; those whose worker was lost begin again."""
        if not self.running:
            return []
        ready, _ = self._ray.wait(list(self.running), num_returns=len(self.running), timeout=timeout)
        results = []
        for reference in ready:
            running = self.running.pop(reference)
            try:
                outcome = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                outcome = {"status": "lost", "error": one_line(error).split(". ")[0]}
            if outcome["status"] == "lost" and running.begun < LIVES:
                again = self._task.remote(running.job, self._board)
                self.running[again] = Running(running.job, time.time(), running.begun + 1)
            else:
                results.append((running.job, outcome | {"node": self._address_of(outcome.get("node"))}))
        return results

    def _address_of(self, node: str | None) -> str | None:
        """A node's address, which stays the same when the cluster is started again."""
        found = [each["NodeManagerAddress"] for each in self._ray.nodes() if each["NodeID"] == node]
        return str(found[0]) if found else None

    def doing(self) -> dict[str, tuple[str, float]]:
        """Trial to what it is doing, and since when; nothing if nobody can say."""
        try:
            found: dict[str, tuple[str, float]] = self._ray.get(self._board.read.remote(), timeout=2)
        except self._ray.exceptions.RayError:
            return {}
        return found

    def cancel(self) -> list[tuple[Job, dict[str, Any]]]:
        """End all trials; one that is being published is finished first. Return the outcomes of those."""
        for reference in self.running:
            self._ray.cancel(reference, force=False, recursive=False)
        deadline = time.time() + CANCEL_SECONDS
        results = []
        while self.running and time.time() < deadline:
            ready, _ = self._ray.wait(list(self.running), timeout=1)
            for reference in ready:
                job = self.running.pop(reference).job
                try:
                    results.append((job, self._ray.get(reference)))
                except self._ray.exceptions.RayError:
                    continue
        return results

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()
