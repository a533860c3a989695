#!/bin/bash
# A run without Ray: each job of a Slurm array captions one shard on the eight GPUs of a node. Not run in this
# project's tests, which hold the commands to `reelscribe` and no more.
#
#   sbatch slurm_shards.sh                     once more for what broke off: each job goes on where it was
#   MERGE=1 bash slurm_shards.sh               when all are finished: into one output, on any machine
#
#SBATCH --job-name=reelscribe
#SBATCH --array=1-50
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
set -euo pipefail

SHARDS=50
DATA=/data/clips.parquet
OUT=/data/captioned # on a disk that all nodes see

if [[ -n "${MERGE:-}" ]]; then
    reelscribe merge "$OUT/all.parquet" "$OUT"/part-*.parquet
    exit
fi

PART=$(printf "%05d" "$SLURM_ARRAY_TASK_ID")
# In the background, so that the signal five minutes before the end comes here and is handed on: what is in flight is
# finished then, and the ledger has it. Exit code 3 says that the shard is finished, and some of its videos failed.
reelscribe caption "$DATA" -o "$OUT/part-$PART.parquet" --shard "$SLURM_ARRAY_TASK_ID/$SHARDS" \
    --model Qwen/Qwen3-VL-8B-Instruct --engine vllm --max-failures 5% &
trap 'kill -TERM $!' TERM
wait $! || wait $!
