#!/bin/bash
# A data set by the workers of Dask: one on each of some hosts, by SSH.
#
#     bash hosts-dask.sh dataset.flags host1 host2 host3
#
# Without hosts it starts two workers here, to try it. The first host has the scheduler.
set -eu

flagfile=$1
shift
export TF_NUM_INTRAOP_THREADS=${TF_NUM_INTRAOP_THREADS:-1}
if [ "$#" -gt 0 ]; then
  address=tcp://$1:8786
  dask ssh --nthreads 1 "$1" "$@" &
  started=("$!")
else
  address=tcp://127.0.0.1:8786
  dask scheduler --host 127.0.0.1 --port 8786 --dashboard-address 127.0.0.1:0 &
  started=("$!")
  for _ in 1 2; do
    dask worker "$address" --nthreads 1 --memory-limit 0 &
    started+=("$!")
  done
fi
trap 'kill "${started[@]}"' EXIT
sleep 5
brats-gan build-dataset --flagfile="$flagfile" --scheduler="$address"
