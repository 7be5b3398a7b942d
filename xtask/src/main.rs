//! Development tasks: `cargo xtask check | test | tidy | bless | ops`.
//!
//! They are Rust so that they need nothing but cargo and git, on every system.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

mod kernels;
mod tidy;

const USAGE: &str = "usage: cargo xtask TASK

  check   formatting, clippy and tidy: what must hold before a commit
  test    every test of the workspace
  kernels compile the device kernels for AMD, check them, and write docs/kernels.md (with --check, compare it)
  tidy    the rules of the tree that the compiler doesn't know
  ops     measure which operators the cases below some folders pass, and rewrite docs/ops.md: `ops FOLDER...`
  bless   run the tests with BLESS=1, so that golden files are rewritten; read the diff";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check"] => check(),
        ["test"] => test(&[]),
        ["tidy"] => tidy::run(&root()),
        ["ops", ref folders @ ..] => ops(folders),
        ["kernels"] => kernels::run(&root(), false),
        ["kernels", "--check"] => kernels::run(&root(), true),
        ["bless"] => test(&[("BLESS", "1")]),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<(), String> {
    cargo(&["fmt", "--all", "--check"], &[])?;
    let clippy = "clippy --release --workspace --all-targets -- -D warnings";
    cargo(&clippy.split(' ').collect::<Vec<_>>(), &[])?;
    tidy::run(&root())
}

fn test(variables: &[(&str, &str)]) -> Result<(), String> {
    cargo(&["test", "--release", "--workspace"], variables)
}

/// The table of operators is made by a test, which sees every room.
fn ops(folders: &[&str]) -> Result<(), String> {
    let folders: Vec<PathBuf> = folders.iter().map(|f| root().join(f)).collect();
    let list = std::env::join_paths(folders).map_err(|e| format!("these folders do not make a list: {e}"))?;
    let list = list.into_string().map_err(|_| "a folder's name is not UTF-8".to_string())?;
    let test = ["test", "--release", "-p", "fastinference-tests", "--test", "operators"];
    cargo(&test, &[("BLESS", "1"), ("CASES", &list)])
}

fn cargo(arguments: &[&str], variables: &[(&str, &str)]) -> Result<(), String> {
    let status = Command::new("cargo")
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(root())
        .status()
        .map_err(|e| format!("cannot start cargo: {e}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("cargo {} failed", arguments.join(" ")))
}

/// The workspace's folder.
fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask lies in the workspace").to_path_buf()
}
