//! A stream never holds more steps than the entry's pace, and none when a run ends, so that it does not matter how runs follow each
//! other.

use super::Finding;
use crate::model::Entry;
use crate::pace::Depths;

pub(super) fn check(entry: &Entry, findings: &mut Vec<Finding>) {
    let Some(most) = entry.pace else { return };
    let mut about = |step: Option<usize>, problem: String| {
        findings.push(Finding { entry: entry.name.clone(), step, node: None, problem });
    };
    let mut depths = Depths::new(most);
    for (at, step) in entry.steps.iter().enumerate() {
        if let Some(stream) = depths.full(step) {
            return about(
                Some(at),
                format!("stream {} may hold more than {most} steps here, the pace of the entry", stream.0),
            );
        }
        depths.count(step);
    }
    for stream in depths.left() {
        about(None, format!("the host does not wait for stream {} at the end, which the entry's pace needs", stream.0));
    }
}
