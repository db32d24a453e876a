# shellcheck shell=bash
# What fit.sbatch and array.sbatch share; they source it inside a job, in the folder that it was submitted from.
#   LIT_TRIWAVE_VENV     virtual environment; .venv by default, and none if that is not there
#   LIT_TRIWAVE_MODULES  environment modules to load first, such as "python/3.11 cuda"
#   LIT_TRIWAVE_DATA     file or folder to copy to each node's own disk; arguments that begin with it mean the copy
set -euo pipefail

REQUEUE=75      # exit code: all is saved, start me again
INTERRUPTED=130 # exit code: all is saved, and someone wanted an end

# environment: the modules and the Python of the job.
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
    # sbatch's --cpus-per-task reaches srun only by this variable.
    [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
}

# fit RUN_ID CONFIG [--key value ...]: trains in one process for each GPU, or one on each node, as the job has them.
fit() {
    local id=$1 config=${2:?a config is needed: sbatch slurm/fit.sbatch CONFIG} code=0
    shift 2
    local arguments=("$@") nodes=$SLURM_JOB_NUM_NODES per_node=${SLURM_GPUS_ON_NODE:-1}
    if [ -n "${SLURM_NTASKS:-}" ]; then # --ntasks or --ntasks-per-node was given
        per_node=$((SLURM_NTASKS / nodes))
        [ $((per_node * nodes)) = "$SLURM_NTASKS" ] || {
            echo "error: $SLURM_NTASKS tasks on $nodes nodes: equally many on each, please" >&2
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

    # A checkpoint's run goes on as itself, unless it is given another id.
    local given=(--run.id "$id")
    if [[ " ${arguments[*]} " =~ " --ckpt_path"[=\ ]([^ ]+) && ${BASH_REMATCH[1]} != last ]]; then
        given=()
        export LIT_TRIWAVE_RUN_ID=$id # of a checkpoint that is in no run folder
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
        sleep 60 # the end comes from outside
    fi
    return "$code"
}

# agent ENTITY/PROJECT/SWEEP [options of wandb agent]: makes runs of a W&B sweep, one after the other.
agent() {
    local code=0
    environment || return
    trap : TERM # the agent passes it on to its run, which saves, and begins no other
    srun --nodes=1 --ntasks=1 wandb agent --forward-signals "${@:2}" "$1" || code=$?
    return "$code"
}

# Whether the job was asked to leave for another one. If it does so within its time of grace, SLURM takes it for done.
preempted() {
    local state
    state=$(scontrol --oneliner show job "$SLURM_JOB_ID")
    [[ $state == *" JobState=RUNNING "* && $state != *" PreemptTime=None "* ]]
}
