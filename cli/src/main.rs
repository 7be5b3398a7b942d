//! The command line: compile, run, generate, bench, inspect, verify, conformance, doctor and demo.
//!
//! A command is one file in `commands`: a struct of its flags and a function that does the work through the library. Results go
//! to standard output, everything else to standard error. Exit codes: 0 done, 1 the work failed, 2 wrong usage.

mod commands;
mod failure;
mod flags;
mod inputs;
mod models;
mod npy;
mod progress;

mod table;
mod tensor_file;
mod units;

use clap::{Parser, Subcommand};
use commands::{bench, compile, conformance, demo, doctor, generate, inspect, run, verify, worker};
use failure::Failure;
use std::process::ExitCode;

/// Compiles ONNX models to plans and runs them.
#[derive(Parser)]
#[command(name = "fastinference", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Exit codes: 0 done, 1 the work failed, 2 wrong usage.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Compile(compile::Flags),
    Run(run::Flags),
    Generate(generate::Flags),
    Bench(bench::Flags),
    Inspect(inspect::Flags),
    Verify(verify::Flags),
    Conformance(conformance::Flags),
    Doctor(doctor::Flags),
    Demo(demo::Flags),
    Worker(worker::Flags),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Compile(flags) => compile::main(flags),
        Command::Run(flags) => run::main(flags),
        Command::Generate(flags) => generate::main(flags),
        Command::Bench(flags) => bench::main(flags),
        Command::Inspect(flags) => inspect::main(flags),
        Command::Verify(flags) => verify::main(flags),
        Command::Conformance(flags) => conformance::main(flags),
        Command::Doctor(flags) => doctor::main(flags),
        Command::Demo(flags) => demo::main(flags),
        Command::Worker(flags) => worker::main(flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::ReaderLeft) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.exit_code();
            failure::show(failure);
            ExitCode::from(code)
        }
    }
}
