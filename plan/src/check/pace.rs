//! A stream never holds more steps than the entry's pace, from one run to the next, which may overlap it.

use super::Finding;
use crate::model::Entry;
use crate::pace::Depths;

pub(super) fn check(entry: &Entry, findings: &mut Vec<Finding>) {
    let Some(most) = entry.pace else { return };
    let mut depths = Depths::new(most);
    for (at, step) in entry.steps.iter().enumerate().chain(entry.steps.iter().enumerate()) {
        if let Some(stream) = depths.after(step) {
            let problem = format!("stream {} may hold more than {most} steps here, the pace of the entry", stream.0);
            findings.push(Finding { entry: entry.name.clone(), step: Some(at), node: None, problem });
            return;
        }
    }
}
