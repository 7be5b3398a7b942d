//! Bounds how much a stream of a device may hold: after so many steps the host waits for it.
//!
//! A driver takes any number of launches. But a fault or a hang then lies somewhere among them, everyone else who uses the device
//! waits for all of them, and some drivers fail when a queue gets deep. [`place`] puts waits between the steps, and the
//! checker refuses a plan in which one is missing.
//!
//! ```text
//! launch linear               stream 1
//! launch linear               stream 1
//! pace 1 -> 0 "every 2"       placed: with a pace of 2, the host waits here
//! launch softmax              stream 1
//! ```

use crate::check::{self, CheckedPlan, Finding};
use crate::model::{Entry, Step, Stream, SyncKind, SyncPoint};
use crate::sync::{insert, retain};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// How often the host waits for a device: `auto`, `never`, or a number of steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pacing {
    /// As the target thinks best for the plan ([`crate::Target::pace`]).
    #[default]
    Auto,
    /// Only where a value is needed.
    Never,
    /// After so many steps at the latest.
    Every(NonZeroU32),
}

impl Pacing {
    /// The number of steps, where the target would take `auto`.
    pub fn steps(self, auto: impl FnOnce() -> Option<NonZeroU32>) -> Option<NonZeroU32> {
        match self {
            Pacing::Auto => auto(),
            Pacing::Never => None,
            Pacing::Every(n) => Some(n),
        }
    }
}

impl FromStr for Pacing {
    type Err = String;

    fn from_str(text: &str) -> Result<Pacing, String> {
        match text {
            "auto" => Ok(Pacing::Auto),
            "never" => Ok(Pacing::Never),
            n => n.parse().map(Pacing::Every).map_err(|_| "expected a number of steps, `auto` or `never`".into()),
        }
    }
}

impl fmt::Display for Pacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pacing::Auto => f.write_str("auto"),
            Pacing::Never => f.write_str("never"),
            Pacing::Every(n) => n.fmt(f),
        }
    }
}

/// Lets the host wait in every entry of a plan as `every` says, and nowhere else but where values are needed.
pub fn repace(plan: CheckedPlan, every: impl Fn(&Entry) -> Option<NonZeroU32>) -> Result<CheckedPlan, Vec<Finding>> {
    let mut plan = plan.into_plan();
    for entry in &mut plan.entries {
        let every = every(entry);
        place(entry, every);
    }
    check::check(plan)
}

/// Puts the waits in that a pace needs, in place of those that are there.
pub(crate) fn place(entry: &mut Entry, every: Option<NonZeroU32>) {
    let paces = |step: &Step| matches!(step, Step::Sync(SyncPoint { kind: SyncKind::Pace { .. }, .. }));
    retain(entry, |_, step| !paces(step));
    entry.pace = every;
    let Some(most) = every else { return };
    let mut depths = Depths::new(most);
    let mut waits: Vec<(usize, Stream)> = vec![];
    for (at, step) in entry.steps.iter().enumerate() {
        if let Some(stream) = depths.after(step) {
            waits.push((at, stream));
            depths.waited(stream);
            depths.after(step);
        }
    }
    // The next run may begin before this one is done: what they hold together must not be too much either.
    for stream in depths.held.keys().copied().collect::<Vec<_>>() {
        let first = waits.iter().find(|(_, s)| *s == stream).map_or(entry.steps.len(), |(at, _)| *at);
        let mut next = depths.only(stream);
        if entry.steps[..first].iter().any(|step| next.after(step) == Some(stream)) {
            waits.push((entry.steps.len(), stream));
        }
    }
    let wait = |(at, signaller)| {
        let kind = SyncKind::Pace { reason: format!("every {most}") };
        (at, Step::Sync(SyncPoint { signaller, waiter: Stream::HOST, kind }))
    };
    insert(entry, waits.into_iter().map(wait).collect());
}

/// How many steps each stream holds that the host has not waited for.
pub(crate) struct Depths {
    most: NonZeroU32,
    held: BTreeMap<Stream, u32>,
}

impl Depths {
    pub(crate) fn new(most: NonZeroU32) -> Depths {
        Depths { most, held: BTreeMap::new() }
    }

    /// Counts a step; tells a stream that then holds too much.
    pub(crate) fn after(&mut self, step: &Step) -> Option<Stream> {
        let stream = match step {
            Step::Launch(launch) => launch.stream,
            Step::Copy(transfer) => transfer.stream,
            Step::Sync(sync) => {
                if sync.waiter == Stream::HOST {
                    self.waited(sync.signaller);
                }
                return None;
            }
        };
        if stream == Stream::HOST {
            return None;
        }
        let held = self.held.entry(stream).or_default();
        *held += 1;
        (*held > self.most.get()).then_some(stream)
    }

    /// The host waited for a stream.
    fn waited(&mut self, stream: Stream) {
        self.held.remove(&stream);
    }

    /// As if only this stream held something.
    fn only(&self, stream: Stream) -> Depths {
        let held = self.held.get(&stream).map(|n| (stream, *n));
        Depths { most: self.most, held: held.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_and_print() {
        for word in ["auto", "never", "1", "64"] {
            assert_eq!(word.parse::<Pacing>().unwrap().to_string(), word);
        }
        for wrong in ["0", "-1", "often", ""] {
            assert!(wrong.parse::<Pacing>().unwrap_err().contains("number of steps"), "{wrong}");
        }
    }
}
