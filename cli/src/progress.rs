//! A spinner on a terminal, nothing in a pipe.

use fastinference::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

/// A spinner that says what is being done. Without a terminal on standard error it shows nothing.
pub fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("the template is valid");
    bar.set_style(style);
    bar.set_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A bar that counts things.
pub fn bar(total: usize) -> ProgressBar {
    let bar = ProgressBar::new(total as u64);
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg}").expect("the template is valid");
    bar.set_style(style);
    bar
}

/// Shows what the compiler does, and prints the graph after the passes that were asked for.
pub struct Stages {
    bar: ProgressBar,
    print_after: BTreeSet<String>,
}

impl Stages {
    /// A spinner; graphs are printed after the passes named.
    pub fn new(print_after: &[String]) -> Stages {
        Stages { bar: spinner("reading the model"), print_after: print_after.iter().cloned().collect() }
    }

    /// Removes the spinner.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Stages {
    fn stage(&mut self, name: &str) {
        self.bar.set_message(name.to_string());
    }

    fn graph(&mut self, pass: &str, text: &dyn Display) {
        if self.print_after.contains(pass) {
            // A reader that has left loses nothing; the command fails when it prints its results.
            self.bar.suspend(|| writeln!(io::stdout(), "// after {pass}\n{text}").unwrap_or_default());
        }
    }
}
