# What scripts/campaign.d/{kills,forks,soak,friends} share; they source it from the root of the project.

case ${1:-} in
short | long) ;;
*)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 130' INT TERM

# run PROGRAM ARGUMENTS...: in the background, so that a signal ends it with this script; its children end with it.
run() {
    "$@" &
    local pid=$!
    trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM
    wait "$pid"
}

# ordinary ARGUMENTS...: runs `kills` as users would build it.
ordinary() {
    local target=${CARGO_TARGET_DIR:-target}
    cargo build --release -q -p callgate-kills --target-dir "$target" >&2 || return 1
    run "$target/release/kills" "$@"
}

# with_points ARGUMENTS...: runs `kills` built with kill points.
with_points() {
    local target=${CARGO_TARGET_DIR:-target}/points
    RUSTFLAGS="--cfg callgate_points" cargo build --release -q -p callgate-kills --target-dir "$target" >&2 || return 1
    run "$target/release/kills" "$@"
}

# aborting ARGUMENTS...: runs `kills` built so that a panic ends its process.
aborting() {
    local target=${CARGO_TARGET_DIR:-target}
    cargo build --profile abort -q -p callgate-kills --target-dir "$target" >&2 || return 1
    run "$target/abort/kills" "$@"
}
