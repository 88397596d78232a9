# shellcheck shell=sh disable=SC2034
# What start, stop, restart and status share: where a rig keeps its things, and whether its swtpm runs.
#
# A rig is one directory: state/ (the TPM's memory), swtpm.sock and swtpm.sock.ctrl (its two sockets; every TPM client
# derives the second name from the first), swtpm.pid, swtpm.log, and after start --manufacture also ca/ and ek/.

program=${0##*/}

# The comment at the head of a script is its help.
usage() { sed -n '2,/^set -eu/{/^set -eu/!s/^# \{0,1\}//p}' "$0"; }

# The kernel's limit for the path of a unix socket: 108 bytes with the closing NUL.
longest_socket=107

die() {
    printf '%s: %s\n' "$program" "$*" >&2
    exit 1
}

# Sets $dir, $socket and the like, from the DIR argument.
open_rig() {
    case $1 in
        /*) dir=$1 ;;
        *) dir=$(pwd -P)/$1 ;;
    esac
    dir=${dir%/}
    case $dir in
        *,* | *'
'*) die "DIR must not contain a comma or a line break: swtpm could not read its path" ;;
    esac
    socket=$dir/swtpm.sock
    control=$socket.ctrl
    pid_file=$dir/swtpm.pid
    log=$dir/swtpm.log
    bytes=$(printf %s "$control" | wc -c)
    if [ "$bytes" -gt "$longest_socket" ]; then
        die "the socket $control would have a path of $bytes bytes; the system allows $longest_socket, so choose a shorter DIR (mktemp -d /tmp/hbXXXXXX)"
    fi
}

# The process number of this rig's swtpm; fails when it does not run.  A number alone proves nothing, it may have
# been given to another process since: the command line has to name our control socket.
running_pid() {
    number=$(cat "$pid_file" 2>/dev/null) || return 1
    case $number in
        '' | *[!0-9]*) return 1 ;;
    esac
    is_ours "$number" || return 1
    printf '%s\n' "$number"
}

is_ours() { { tr '\0' '\n' <"/proc/$1/cmdline"; } 2>/dev/null | grep -qF "type=unixio,path=$control,"; }

# One start or stop of a rig at a time.  The lock is on descriptor 8, which swtpm must not inherit.
lock_rig() {
    exec 8>"$dir/lock" || die "cannot write in $dir"
    flock 8
}

tcti() { printf 'swtpm:path=%s\n' "$socket"; }

# Waits until "$@" succeeds, at most five seconds.
await() {
    tries=100
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.05
    done
}
