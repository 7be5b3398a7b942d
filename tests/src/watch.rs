//! Runs work that may do anything: panics and hangs are caught and told apart from errors, memory is measured.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How one piece of work ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It succeeded.
    Done,
    /// It gave an error, with this text.
    Refused(String),
    /// It panicked.
    Panicked(String),
    /// It was still running after the time given.
    Hung,
}

/// Runs `work` on a thread of its own, with the stack that threads usually have.
pub fn watched(limit: Duration, work: impl FnOnce() -> Result<(), String> + Send + 'static) -> End {
    let (sender, receiver) = channel();
    let builder = std::thread::Builder::new().stack_size(2 << 20);
    let thread = builder.spawn(move || {
        // Nobody listens any more after the time limit.
        let _ = sender.send(work());
    });
    let thread = thread.expect("a thread can be started");
    match receiver.recv_timeout(limit) {
        Ok(Ok(())) => End::Done,
        Ok(Err(reason)) => End::Refused(reason),
        Err(RecvTimeoutError::Timeout) => End::Hung,
        Err(RecvTimeoutError::Disconnected) => {
            let panic = thread.join().err();
            let text = panic.as_ref().and_then(|p| p.downcast_ref::<String>().cloned());
            let text = text.or_else(|| panic.as_ref()?.downcast_ref::<&str>().map(|s| s.to_string()));
            End::Panicked(text.unwrap_or_default())
        }
    }
}

/// The most memory that this process has held, in MB; 0 where the system does not say.
pub fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// What became of all mutants.
#[derive(Default)]
pub struct Tally {
    /// Mutants that ran to the end: the mutation did no harm.
    pub ran: usize,
    /// Mutants that gave an error.
    pub refused: usize,
    /// Panics and hangs, each with the mutant's name.
    pub broken: Vec<String>,
    /// Different error texts, by their first words.
    pub reasons: std::collections::BTreeSet<String>,
}

impl Tally {
    /// Counts one.
    pub fn count(&mut self, name: &str, end: End) {
        match end {
            End::Done => self.ran += 1,
            End::Refused(reason) => {
                assert!(!reason.trim().is_empty(), "{name}: an error without words");
                self.reasons.insert(reason.split_whitespace().take(4).collect::<Vec<_>>().join(" "));
                self.refused += 1;
            }
            End::Panicked(text) => self.broken.push(format!("{name}: panicked: {text}")),
            End::Hung => self.broken.push(format!("{name}: hangs")),
        }
    }

    /// Prints the counts and fails if a mutant broke something, or the process took more than 2 GB.
    pub fn finish(self, what: &str) {
        let total = self.ran + self.refused + self.broken.len();
        let peak = peak_mb();
        println!(
            "{total} mutated {what}: {} refused in {} ways, {} harmless, {} panics or hangs; at most {peak} MB",
            self.refused,
            self.reasons.len(),
            self.ran,
            self.broken.len()
        );
        assert!(self.broken.is_empty(), "{}", self.broken.join("\n"));
        assert!(peak < 2048, "{peak} MB");
        assert!(self.refused > total / 4 && self.ran > 0, "mutants must be found, and some must be harmless");
    }
}
