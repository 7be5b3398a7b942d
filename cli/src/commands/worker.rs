//! `worker`: the process that runs a device for `--supervise`. It is started by this program, not by people.

use crate::failure::Failure;
use clap::Args;
use std::io;

/// Runs a device for another process, over standard input and output.
#[derive(Args)]
#[command(hide = true)]
pub struct Flags {}

/// Runs the command.
pub fn main(_: Flags) -> Result<(), Failure> {
    Ok(fastinference::supervise::worker::serve(io::stdin().lock(), io::stdout().lock())?)
}
