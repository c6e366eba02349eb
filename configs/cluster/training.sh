#!/bin/bash
# Stage 2 on several nodes at once, a worker on each:
#
#     sbatch --nodes=4 training.sh training.flags
#
# The --batch_size of the flagfile is that of all workers, and its --run_dir a folder that
# all nodes see. In the same way: train-structural, eval-segmentation.
#
#SBATCH --job-name=brats-gan-training
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

flagfile=$(realpath "$1")
workers=()
for host in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
  for ((k = 0; k < ${SLURM_NTASKS_PER_NODE:-1}; k++)); do
    workers+=("\"$host:$((23456 + k))\"")
  done
done
list=$(IFS=,; echo "${workers[*]}")
export list

# Slurm warns the shell, which waits; the shell warns srun, and that all workers. One that
# is lost ends the others with code 85 as well, so none need be killed.
# shellcheck disable=SC2016 # the variables are those of each task
srun --kill-on-bad-exit=0 bash -c '
  export TF_CONFIG="{\"cluster\": {\"worker\": [$list]},
    \"task\": {\"type\": \"worker\", \"index\": $SLURM_PROCID}}"
  exec brats-gan train-multimodal --flagfile="$1" --strategy=multi_worker' worker "$flagfile" &
command=$!
trap 'kill -USR1 "$command"' USR1
wait "$command"
code=$?
if [ "$code" -gt 128 ]; then # it was the signal that ended the waiting
  wait "$command"
  code=$?
fi
# 85: start me again. The run goes on from its last checkpoint.
if [ "$code" -eq 85 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
