"""Workers of Dask as jobs of Slurm, and a data set by them.

    pip install dask-jobqueue
    python slurm_workers.py 64 dataset.flags
    python slurm_workers.py 2 dataset.flags --here    # the same, on this machine

Jobs come and go as Slurm lets them; a unit that is lost with one is made by another.
"""

import subprocess
import sys


def cluster(count, here):
    """A cluster that is asking for `count` workers of a core each."""
    if here:
        from distributed import LocalCluster

        return LocalCluster(n_workers=count, threads_per_worker=1, memory_limit=None)
    from dask_jobqueue import SLURMCluster

    jobs = SLURMCluster(
        cores=1,
        processes=1,
        memory="4GB",
        walltime="04:00:00",
        job_script_prologue=[
            "export TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1",
        ],
        worker_extra_args=["--lifetime", "230m", "--lifetime-stagger", "10m"],
    )
    jobs.adapt(minimum_jobs=1, maximum_jobs=count)
    return jobs


def main():
    count, flagfile, *more = sys.argv[1:]
    with cluster(int(count), "--here" in more) as workers:
        command = ["brats-gan", "build-dataset", f"--flagfile={flagfile}"]
        command += [f"--scheduler={workers.scheduler_address}"]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
