# What the tests of packages share. As root: trees are entered by chroot(8).

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# What is going to be looked at.
about() {
    printf -- '-- %s\n' "$*"
}

# expect WHAT EXPECTED FOUND
expect() {
    if [ "$2" != "$3" ]; then
        fail "$1: expected '$2', found '$3'"
    fi
}

# Runs a command in the tree, without a terminal to ask on.
inside() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        chroot "$tree" "$@" </dev/null
}

# A Debian 12 with systemd in $tree, gone at the end. No service starts in it.
make_tree() {
    local cached
    cached="${CONNTALLY_TOOLS:?}/bookworm-$(dpkg --print-architecture).tar"
    scratch="$(mktemp -d)"
    chmod 755 "$scratch"
    trap 'rm -rf "$scratch"' EXIT
    tree="$scratch/tree"
    if [ ! -e "$cached" ]; then
        debootstrap --variant=minbase --include=systemd bookworm "$scratch/new" \
            >"$scratch/log" 2>&1 || fail "debootstrap: $(cat "$scratch/log")"
        tar -C "$scratch/new" -cf "$cached.new" .
        mv "$cached.new" "$cached"
        rm -rf "$scratch/new"
    fi
    mkdir "$tree"
    tar -C "$tree" -xf "$cached"
    printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
    chmod 755 "$tree/usr/sbin/policy-rc.d"
}

# Mode, owner and path of each of conntally's files, on standard input, are as in the tree.
expect_files() {
    local mode owner path
    while read -r mode owner path; do
        expect "$path" "$mode $owner" "$(inside stat --format '%a %U:%G' "$path" 2>&1)"
    done
}

# The files that both packages have.
expect_common_files() {
    expect_files <<'LIST'
755 root:root /usr/bin/conntally
755 root:root /etc/conntally
644 root:root /etc/conntally/conntally.toml
755 root:root /etc/conntally/conf.d
644 root:root /usr/lib/systemd/system/conntally.service
644 root:root /usr/lib/systemd/system/conntally.socket
644 root:root /usr/lib/sysusers.d/conntally.conf
644 root:root /usr/lib/tmpfiles.d/conntally.conf
644 root:root /usr/share/conntally/conntally.service.d/netns.conf
644 root:root /usr/share/conntally/conntally.service.d/strict.conf
644 root:root /usr/share/conntally/dashboards/grafana.json
644 root:root /usr/share/conntally/dashboards/prometheus-alerts.yml
644 root:root /usr/share/man/man1/conntally.1.gz
644 root:root /usr/share/man/man1/conntally-run.1.gz
644 root:root /usr/share/man/man5/conntally.toml.5.gz
644 root:root /usr/share/bash-completion/completions/conntally
644 root:root /usr/share/fish/vendor_completions.d/conntally.fish
644 root:root /usr/share/doc/conntally/README.md
644 root:root /usr/share/doc/conntally/examples/datadog-agent.toml
LIST
}

# What sysusers and tmpfiles make: the one at the installation, the other at a boot.
expect_user() {
    local entry uid
    entry="$(inside getent passwd conntally)" || fail "no user conntally"
    uid="$(echo "$entry" | cut -d: -f3)"
    if [ "$uid" -ge 1000 ]; then
        fail "no user of the system: $entry"
    fi
    expect "the user's home and shell" "/run/conntally:/usr/sbin/nologin" "$(echo "$entry" | cut -d: -f6-)"
    expect "the user's group" conntally "$(inside id --group --name conntally)"
    systemd-tmpfiles --root="$tree" --create conntally.conf
    expect_files <<<'755 conntally:conntally /run/conntally'
}

# Both units: enabled or disabled.
expect_units() {
    local unit
    for unit in conntally.service conntally.socket; do
        expect "$unit" "$1" "$(inside systemctl is-enabled "$unit" 2>&1 || true)"
    done
}

# As the unit would start it, with the configuration as it is shipped: a line that is sent to
# each of its sockets comes out at the port of a statsd server.
expect_that_it_works() {
    expect "the version" "conntally $1" "$(inside conntally --version)"
    expect "the check" "valid: /etc/conntally/conntally.toml" "$(inside conntally check)"
    inside bash -n /usr/share/bash-completion/completions/conntally
    unshare --net --mount "$(dirname "${BASH_SOURCE[0]}")/out-of-the-box" "$tree"
    expect_files <<<'755 conntally:conntally /run/conntally'
}

# A line of the administrator's, that makes the configuration another.
change_configuration() {
    echo "# changed here" >>"$tree/etc/conntally/conntally.toml"
}

# expect_changed FILE YES|NO
expect_changed() {
    local found=no
    if grep -q "changed here" "$tree/etc/conntally/$1"; then
        found=yes
    fi
    expect "$1 has the administrator's change" "$2" "$found"
}

# expect_newer FILE YES|NO: whether the file is that of the newer package.
expect_newer() {
    local found=no
    if grep -q "a newer version" "$tree/etc/conntally/$1"; then
        found=yes
    fi
    expect "$1 is the newer version's" "$2" "$found"
}

expect_absent() {
    local path
    for path in "$@"; do
        if [ -e "$tree$path" ] || [ -L "$tree$path" ]; then
            fail "$path is still there"
        fi
    done
}
