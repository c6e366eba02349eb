#!/bin/bash
# A data set in parts, one a task of a Slurm array; the last command finishes it:
#
#     ARRAY=$(sbatch --parsable --array=1-8 dataset-array.sh dataset.flags)
#     sbatch --dependency=afterok:$ARRAY --array=1 dataset-array.sh dataset.flags finish
#
#SBATCH --job-name=brats-gan-dataset
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

flagfile=$1
part=(--shard="$SLURM_ARRAY_TASK_ID/${SLURM_ARRAY_TASK_COUNT:-1}")
if [ "${2:-}" = finish ]; then part=(); fi

# Slurm warns the shell, which waits; the shell warns the command.
brats-gan build-dataset --flagfile="$flagfile" "${part[@]}" &
command=$!
trap 'kill -USR1 "$command"' USR1
wait "$command"
code=$?
if [ "$code" -gt 128 ]; then # it was the signal that ended the waiting
  wait "$command"
  code=$?
fi
# 85: start me again. The part goes on with the first volume that is missing.
if [ "$code" -eq 85 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
