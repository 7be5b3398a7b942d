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
//! pace 1 -> 0 "every 2"       placed: the next run begins with nothing queued
//! ```
//!
//! What is proven: from one run to the next, however many there are and whether or not whoever runs them waits in between, a
//! stream never holds more steps than the entry's pace. It rests on two things that a backend does: it waits where the plan has a sync
//! to the host, and a run that ends early is waited for before its error is returned.

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

/// Lets the host wait in every entry of a plan as `pacing` says, which takes `auto` where it leaves the choice, and nowhere else
/// but where values are needed.
pub fn repace(
    plan: CheckedPlan,
    pacing: Pacing,
    auto: impl Fn(&Entry) -> Option<NonZeroU32>,
) -> Result<CheckedPlan, Vec<Finding>> {
    let mut plan = plan.into_plan();
    plan.pacing = pacing;
    for entry in &mut plan.entries {
        change(entry, &|entry| pacing.steps(|| auto(entry)));
    }
    check::check(plan)
}

fn change(entry: &mut Entry, every: &dyn Fn(&Entry) -> Option<NonZeroU32>) {
    retain(entry, |_, step| !step.is_pace());
    entry.pace = None;
    if let Some(most) = every(entry) {
        place(entry, most);
    }
    entry.bodies.values_mut().for_each(|body| change(body, every));
}

/// Gives an entry that has no pace one, and puts the waits in that it needs: before a step that a stream has no room for, and at the
/// end for every stream that still holds something.
pub(crate) fn place(entry: &mut Entry, most: NonZeroU32) {
    entry.pace = Some(most);
    let mut depths = Depths::new(most);
    let mut waits: Vec<(usize, Stream)> = vec![];
    for (at, step) in entry.steps.iter().enumerate() {
        if let Some(stream) = depths.full(step) {
            waits.push((at, stream));
            depths.waited(stream);
        }
        depths.count(step);
    }
    waits.extend(depths.left().map(|stream| (entry.steps.len(), stream)));
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
    /// No stream holds anything, and none may hold more than `most`.
    pub(crate) fn new(most: NonZeroU32) -> Depths {
        Depths { most, held: BTreeMap::new() }
    }

    /// The stream that would have to hold the step and has no room for it.
    pub(crate) fn full(&self, step: &Step) -> Option<Stream> {
        step.queued_on().filter(|stream| self.held.get(stream).is_some_and(|held| *held >= self.most.get()))
    }

    /// Queues a step, or waits.
    pub(crate) fn count(&mut self, step: &Step) {
        match step {
            Step::Sync(sync) if sync.waiter == Stream::HOST => self.waited(sync.signaller),
            Step::Launch(_) | Step::Copy(_) | Step::Sync(_) => {
                step.queued_on().into_iter().for_each(|stream| *self.held.entry(stream).or_default() += 1);
            }
        }
    }

    /// The streams that hold something.
    pub(crate) fn left(&self) -> impl Iterator<Item = Stream> {
        self.held.keys().copied()
    }

    fn waited(&mut self, stream: Stream) {
        self.held.remove(&stream);
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
