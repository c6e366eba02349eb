#!/bin/bash
# A data set by a few hosts that see one folder, with nothing but SSH and GNU parallel:
#
#     bash hosts.sh dataset.flags host1,host2,host3 8
#
# The host ":" is this machine, without SSH. What was cut short goes on when it is
# started again.
set -eu

flagfile=$(realpath "$1")
hosts=$2
parts=$3
seq "$parts" | parallel --sshlogin "$hosts" --jobs 1 --retries 3 \
  brats-gan build-dataset --flagfile="$flagfile" --shard={}/"$parts"
brats-gan build-dataset --flagfile="$flagfile"
