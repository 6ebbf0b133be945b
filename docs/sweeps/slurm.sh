#!/bin/sh
# One trial a job: sbatch --array=0-5 docs/sweeps/slurm.sh
# REPOSITORY, REVISION, SETTINGS (a file with one trial a line, such as `--set train.learning_rate=0.003`) come from the
# environment; CACHE is a folder that all nodes see, or empty: then the DVC remote of the repository is used.
#SBATCH --job-name=sweep
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=01:00:00
set -eu
clone=$(mktemp -d)
trap 'rm -rf "$clone"' EXIT
git clone --quiet --no-checkout --config gc.auto=0 "$REPOSITORY" "$clone"
cd "$clone"
git checkout --quiet --detach "$REVISION"
python -m dvc config --local core.site_cache_dir "$clone/.dvc/tmp/site"
if [ -n "${CACHE:-}" ]; then python -m dvc cache dir --local "$CACHE"; share=''; else share=--push-data; fi
settings=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$SETTINGS")
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
# shellcheck disable=SC2086 # the words of a line are arguments
python commands/sweeps/trial.py --publish origin $share $settings
