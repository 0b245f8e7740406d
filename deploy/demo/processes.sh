# The demo's processes, shared by `run` and `stop`: each is known by a file in the state folder holding its id, when it started and
# the boot it started in, so that an id the system has given to somebody else's process is never mistaken for ours.

# Bare environments (cron, a container's first process) have no HOME, and what we call, rustup's own set-up first, needs one.
: "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"
export HOME

state=${USHER_DEMO:-${HOME:-/root}/.cache/usher-demo}
# Present only in folders this demo made: nothing else is ever emptied or removed.
state_mark=.usher-demo

# identity PID: what tells this process from a later one with the same id; fails if there is none.
identity() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The name (field 2) may hold blanks: count from its closing bracket. A zombie is as good as gone.
    read -r -a stat <<<"${stat##*) }"
    [ "${stat[0]}" != Z ] || return 1
    printf '%s %s\n' "${stat[19]}" "$(cat /proc/sys/kernel/random/boot_id)"
}

# remember NAME PID
remember() { printf '%s %s\n' "$2" "$(identity "$2")" >"$state/pids/$1"; }

# ours NAME: prints the id of the recorded process if it still is that process.
ours() {
    local pid recorded
    [ -r "$state/pids/$1" ] || return 1
    read -r pid recorded <"$state/pids/$1" || return 1
    [ -n "$recorded" ] && [ "$(identity "$pid")" = "$recorded" ] || return 1
    printf '%s\n' "$pid"
}

# end NAME SECONDS: asks it to stop, insists after SECONDS, forgets it.
end() {
    local pid tenths
    if pid=$(ours "$1"); then
        kill -s TERM "$pid" 2>/dev/null || true
        for ((tenths = $2 * 10; tenths > 0; tenths--)); do
            ours "$1" >/dev/null || break
            sleep 0.1
        done
        if ours "$1" >/dev/null; then
            printf 'demo: %s (process %s) does not stop, ending it\n' "$1" "$pid" >&2
            kill -s KILL "$pid" 2>/dev/null || true
        fi
    fi
    rm -f "$state/pids/$1"
}

# The servers, in the order in which nothing loses what it depends on.
end_servers() {
    end usher 15
    end synapse 20
    end slapd 10
}

running() {
    local name
    for name in demo usher synapse slapd; do
        if ours "$name" >/dev/null; then return 0; fi
    done
    return 1
}
