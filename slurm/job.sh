# shellcheck shell=bash
# Functions of fit.sbatch and array.sbatch. They source this file inside a job, in the folder of the submission.
#   LIT_TRIWAVE_VENV     virtual environment; by default .venv, or none if that does not exist
#   LIT_TRIWAVE_MODULES  environment modules to load first, such as "python/3.11 cuda"
#   LIT_TRIWAVE_DATA     file or folder to copy to each node's own disk; arguments that begin with it are changed to the copy
set -euo pipefail

REQUEUE=75      # exit code: saved, start me again
INTERRUPTED=130 # exit code: saved, and somebody asked for the end

# environment: loads the modules and the Python of the job.
environment() {
    if [ -n "${LIT_TRIWAVE_MODULES:-}" ]; then
        # shellcheck disable=SC2086  # several modules
        module load $LIT_TRIWAVE_MODULES
    fi
    local venv=${LIT_TRIWAVE_VENV:-.venv}
    if [ -f "$venv/bin/activate" ]; then
        # shellcheck disable=SC1091
        source "$venv/bin/activate"
    elif [ -n "${LIT_TRIWAVE_VENV:-}" ]; then
        echo "error: LIT_TRIWAVE_VENV $venv: no bin/activate in it" >&2
        return 1
    fi
    # srun gets sbatch's --cpus-per-task only by this variable.
    [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
}

# fit RUN_ID CONFIG [--key value ...]: trains in one process for each task, each GPU, or each node of the job.
fit() {
    local id=$1 config=${2:?a config is needed: sbatch slurm/fit.sbatch CONFIG} code=0
    shift 2
    local arguments=("$@") nodes=$SLURM_JOB_NUM_NODES per_node=${SLURM_GPUS_ON_NODE:-1}
    if [ -n "${SLURM_NTASKS:-}" ]; then # --ntasks or --ntasks-per-node was given
        per_node=$((SLURM_NTASKS / nodes))
        [ $((per_node * nodes)) = "$SLURM_NTASKS" ] || {
            echo "error: $SLURM_NTASKS tasks on $nodes nodes: each node needs the same number of tasks" >&2
            return 2
        }
    fi

    environment || return
    if [ -n "${LIT_TRIWAVE_DATA:-}" ]; then
        local scratch=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/lit_triwave-$SLURM_JOB_ID
        echo "copying $LIT_TRIWAVE_DATA to $scratch on each node"
        # shellcheck disable=SC2016  # for the inner shell
        srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=1 \
            bash -c 'mkdir -p "$1" && cp -rLu "$2" "$1/"' stage "$scratch" "${LIT_TRIWAVE_DATA%/}"
        arguments=("${arguments[@]/#${LIT_TRIWAVE_DATA%/}/$scratch/$(basename "$LIT_TRIWAVE_DATA")}")
    fi

    # A run that is resumed from a checkpoint keeps its own id, unless another one is given.
    local given=(--run.id "$id")
    if [[ " ${arguments[*]} " =~ " --ckpt_path"[=\ ]([^ ]+) && ${BASH_REMATCH[1]} != last ]]; then
        given=()
        export LIT_TRIWAVE_RUN_ID=$id # for a checkpoint outside a run folder
    fi

    # srun ends all ranks when one dies, and names it.
    trap : TERM # on scancel the ranks save and stop; this shell waits for them
    LIT_TRIWAVE_TASKS=$per_node \
        srun --nodes="$nodes" --ntasks=$((nodes * per_node)) --ntasks-per-node="$per_node" --kill-on-bad-exit=1 --wait=0 \
        python -m lit_triwave fit --config "$config" "${given[@]}" \
        --trainer.num_nodes "$nodes" --trainer.devices "$per_node" "${arguments[@]}" || code=$?

    if [ -n "${scratch:-}" ]; then
        srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 rm -rf "$scratch" || true
    fi
    if [ "$code" = $REQUEUE ] || { [ "$code" = $INTERRUPTED ] && preempted; }; then
        echo "requeued after start $((${SLURM_RESTART_COUNT:-0} + 1)); SLURM now says that this one is cancelled"
        scontrol requeue "${SLURM_JOB_ID}"
        sleep 60 # SLURM ends this shell
    fi
    return "$code"
}

# agent ENTITY/PROJECT/SWEEP [options of wandb agent]: makes the runs of a W&B sweep, one after the other.
agent() {
    local code=0
    environment || return
    trap : TERM # the agent forwards it to its run, which saves, and starts no other
    srun --nodes=1 --ntasks=1 wandb agent --forward-signals "${@:2}" "$1" || code=$?
    return "$code"
}

# preempted: true if SLURM ended the job for another job. A job that ends within its grace time counts as finished.
preempted() {
    local state
    state=$(scontrol --oneliner show job "$SLURM_JOB_ID")
    [[ $state == *" JobState=RUNNING "* && $state != *" PreemptTime=None "* ]]
}
