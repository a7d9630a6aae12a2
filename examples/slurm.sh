#!/usr/bin/env bash
# A campaign on several nodes of a Slurm cluster: Ray is started on all of them and ends with the job.
#   sbatch examples/slurm.sh CAMPAIGN.yaml RESULTS
# Submit it again after a time limit or a failure: it goes on where it stopped.
#SBATCH --job-name=screening
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail

campaign=${1:?usage: sbatch slurm.sh CAMPAIGN.yaml RESULTS}
results=${2:?usage: sbatch slurm.sh CAMPAIGN.yaml RESULTS}
source .venv/bin/activate

# Ray's ports run any code that is sent to them, and others share these nodes: ask for a token.
export RAY_AUTH_MODE=token
umask 077
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
export RAY_USAGE_STATS_ENABLED=0
# Keep the processes that build graphs for ten minutes, not a second: a new one takes seconds to import torch.
export RAY_idle_worker_killing_time_threshold_ms=600000

nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}
head_address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
# One port per job, so that two jobs on a node do not meet.
port=$((20000 + SLURM_JOB_ID % 20000))
scratch=/tmp/ray-$SLURM_JOB_ID

start() {
    # --overlap: `screening run` shares the head's node with its Ray.
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" \
        ray start "${@:2}" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --block &
}

start "$head" --head --node-ip-address="$head_address" --port="$port" --include-dashboard=false --temp-dir="$scratch"
for _ in $(seq 60); do
    ray status --address="$head_address:$port" >/dev/null 2>&1 && break
    sleep 2
done
for node in "${nodes[@]:1}"; do
    start "$node" --address="$head_address:$port"
done

# In the background, so that this shell hears Slurm's signal before the time limit and passes it on:
# the run then ends as with Ctrl-C, with everything that is finished kept.
screening run "$campaign" --out "$results" --address "$head_address:$port" &
run=$!
trap 'kill -TERM $run' TERM
status=0
wait "$run" || status=$?
if kill -0 "$run" 2>/dev/null; then # the signal ended the waiting, not yet the run
    status=0
    wait "$run" || status=$?
fi
exit "$status"
