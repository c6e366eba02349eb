#!/bin/bash
# Stage 2 on some hosts at once, a worker on each, by SSH:
#
#     bash training-hosts.sh training.flags host1 host2 host3
#
# All see the flagfile and what it names by the same paths. Without hosts it starts two
# workers here, to try it. Starts again what ended with code 85, as a lost worker ends all,
# twenty times at most.
set -u

flagfile=$(realpath "$1")
shift
hosts=("$@")
port=23456
list=
for ((k = 0; k < ${#hosts[@]}; k++)); do list="$list,\"${hosts[k]}:$port\""; done
if [ "${#hosts[@]}" -eq 0 ]; then
  hosts=(here here)
  list=",\"localhost:$port\",\"localhost:$((port + 1))\""
fi

code=85
for ((times = 0; times < 20 && code == 85; times++)); do
  started=()
  for ((k = 0; k < ${#hosts[@]}; k++)); do
    config="{\"cluster\": {\"worker\": [${list#,}]}, \"task\": {\"type\": \"worker\", \"index\": $k}}"
    run="TF_CONFIG='$config' exec brats-gan train-multimodal --flagfile='$flagfile' --strategy=multi_worker"
    if [ "${hosts[k]}" = here ]; then
      bash -c "$run" &
    else
      # shellcheck disable=SC2029 # what is meant is expanded here
      ssh "${hosts[k]}" "$run" &
    fi
    started+=("$!")
  done
  code=0
  for worker in "${started[@]}"; do
    wait "$worker"
    ended=$?
    # The one that was lost has another code than those that it ends.
    if [ "$ended" -ne 0 ] && [ "$code" -ne 85 ]; then code=$ended; fi
  done
done
exit "$code"
