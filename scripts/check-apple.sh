#!/usr/bin/env bash
# Type-checks the crates that an iPhone app links, for Apple's targets, on any machine: no Xcode, no SDK, no Mac.
#
#   scripts/check-apple.sh [TARGET...]        (default: device, simulator, Catalyst)
#
# What this shows: the Metal device and everything around it compiles against objc2's bindings of Metal. Not: that it links
# (that needs Apple's SDK) or runs.
#
# Where rustup has a target (`rustup target add aarch64-apple-ios`) it is used. Otherwise the standard library is checked from
# its source, which must be of the compiler's own version: the toolchain's (`rustup component add rust-src`), what RUST_SRC
# names (a folder with `library/` in it), or Debian's package rust-src, fetched with apt into the target folder.
set -euo pipefail
cd "$(dirname "$0")/.."
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(aarch64-apple-ios aarch64-apple-ios-sim aarch64-apple-ios-macabi)
crates=(-p knapsack-device -p knapsack-runtime)
work="${CARGO_TARGET_DIR:-target}/apple"
mkdir -p "$work"
work=$(cd "$work" && pwd)
version=$(rustc --version | cut -d' ' -f2)
sysroot=$(rustc --print sysroot)

debian_source() {
    local apt="$work/apt" options mirror
    command -v apt-get >/dev/null || return 1
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/$' | head -1)
    [ -n "$mirror" ] || { echo "apt knows no mirror of Debian" >&2; return 1; }
    mkdir -p "$apt/lists/partial"
    for suite in trixie-backports forky sid; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
    done > "$apt/sources.list"
    options=(-q -oDir::Etc::sourcelist="$apt/sources.list" -oDir::Etc::sourceparts=/dev/null
        -oDir::State::Lists="$apt/lists" -oDir::State::status=/dev/null)
    apt-get "${options[@]}" update >/dev/null
    local package
    package=$(apt-cache "${options[@]}" madison rust-src | awk -v v="$version" '{ split($3, p, "+"); if (p[1] == v) { print $3; exit } }')
    [ -n "$package" ] || { echo "no Debian suite has rust-src $version" >&2; return 1; }
    (cd "$apt" && apt-get "${options[@]}" download "rust-src=$package" >/dev/null && dpkg -x rust-src_*.deb .)
    echo "$apt/usr/src/rustc-$version"
}

# A copy of the toolchain, by hard links, that has the source where cargo looks for it.
with_source() {
    [ -d "$sysroot/lib/rustlib/src/rust/library" ] && { echo "$sysroot"; return; }
    local copy="$work/toolchain-$version" source="${RUST_SRC:-}"
    if [ ! -d "$copy/lib/rustlib/src/rust/library" ]; then
        [ -n "$source" ] || source=$(debian_source)
        rm -rf "$copy"
        cp -al "$sysroot" "$copy" 2>/dev/null || { rm -rf "$copy"; cp -a "$sysroot" "$copy"; }
        mkdir -p "$copy/lib/rustlib/src"
        ln -sfn "$source" "$copy/lib/rustlib/src/rust"
    fi
    echo "$copy"
}

for target in "${targets[@]}"; do
    if [ -d "$(rustc --print target-libdir --target "$target")" ]; then
        cargo check --locked "${crates[@]}" --target "$target"
    else
        toolchain=$(with_source)
        # Unstable options for the standard library only; the workspace itself is checked as stable code.
        RUSTC_WRAPPER='' RUSTC_BOOTSTRAP=1 RUSTC="$toolchain/bin/rustc" CARGO_TARGET_DIR="$work/check" \
            "$toolchain/bin/cargo" check --locked "${crates[@]}" -Zbuild-std=std,panic_unwind --target "$target"
    fi
    echo "checked ${crates[*]} for $target"
done
