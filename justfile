# Shortcuts for the tasks of `cargo xtask`; run `just` for the list.

_list:
    @just --list --unsorted

# Formatting, clippy and the rules of the tree: before every commit.
check:
    cargo xtask check

# Every test of the workspace.
test:
    cargo xtask test

# The rules of the tree that the compiler doesn't know.
tidy:
    cargo xtask tidy

# Measure the operators over the cases below some folders, and rewrite docs/ops.md.
ops +FOLDERS:
    cargo xtask ops {{FOLDERS}}

# Rewrite the golden files, then read the diff.
bless:
    cargo xtask bless
