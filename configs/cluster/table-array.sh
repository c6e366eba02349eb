#!/bin/bash
# The tables of the paper by any number of tasks in one folder, each of which claims a
# repeat of a row, runs it, and takes the next:
#
#     sbatch --array=1-100 table-array.sh tables.flags
#
#SBATCH --job-name=brats-gan-tables
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

# Slurm warns the shell, which waits; the shell warns the command.
brats-gan eval-segmentation --flagfile="$1" &
command=$!
trap 'kill -USR1 "$command"' USR1
wait "$command"
code=$?
if [ "$code" -gt 128 ]; then # it was the signal that ended the waiting
  wait "$command"
  code=$?
fi
# 85: start me again. The repeat goes on from its checkpoint.
if [ "$code" -eq 85 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
