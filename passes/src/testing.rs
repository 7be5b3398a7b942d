//! Checks shared by the tests of passes. Every check also audits the rewrite and expects a second run to do nothing.

use crate::audit::Audit;
use crate::pass::{Context, Entry, Miss, Pass};
use ir::Graph;

fn parse(text: &str) -> Graph {
    ir::text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Runs the pass, verifies and audits; returns the log.
fn run(pass: &Pass, graph: &mut Graph) -> Vec<Entry> {
    let before = graph.clone();
    let log = run_unaudited(pass, graph);
    Audit::of(&before).compare(&before, graph).unwrap_or_else(|e| panic!("{}: {e}\n{before}\n{graph}", pass.name));
    log
}

/// Runs a pass that changes values by design, and verifies; returns the log.
pub(crate) fn run_unaudited(pass: &Pass, graph: &mut Graph) -> Vec<Entry> {
    let mut cx = Context::default();
    pass.run(graph, &mut cx);
    ir::verify(graph).unwrap_or_else(|e| panic!("{} broke the graph: {e}\n{graph}", pass.name));
    cx.log
}

fn check(pass: &Pass, before: &str, after: &str) {
    check_by(run, pass, before, after);
}

fn check_by(run: fn(&Pass, &mut Graph) -> Vec<Entry>, pass: &Pass, before: &str, after: &str) {
    let mut g = parse(before);
    run(pass, &mut g);
    assert_eq!(g.to_string().trim(), after.trim());
    let again = run(pass, &mut g);
    assert!(again.iter().all(|e| e.outcome.is_err()), "{} is not idempotent: {again:?}", pass.name);
}

/// Runs the `ir before` block of a module comment and compares with its `ir after` block.
pub(crate) fn check_doc_example(pass: &Pass, source: &str) {
    let (before, after) = doc_example(pass, source);
    check(pass, &before, &after);
}

/// [`check_doc_example`] of a pass that changes values by design.
pub(crate) fn check_unaudited_doc_example(pass: &Pass, source: &str) {
    let (before, after) = doc_example(pass, source);
    check_by(run_unaudited, pass, &before, &after);
}

fn doc_example(pass: &Pass, source: &str) -> (String, String) {
    let block = |fence: &str| -> String {
        let fence = format!("//! ```ir {fence}");
        let lines = source.lines().skip_while(|l| *l != fence).skip(1).take_while(|l| *l != "//! ```");
        lines.map(|l| format!("{}\n", l.strip_prefix("//! ").unwrap())).collect()
    };
    let (before, after) = (block("before"), block("after"));
    assert!(!before.is_empty() && !after.is_empty(), "{}: no example in the module comment", pass.name);
    assert_eq!(parse(&before).to_string(), before, "the example is not in canonical form");
    (before, after)
}

/// Runs the pass on one text and compares with another.
pub(crate) fn check_rewrite(pass: &Pass, before: &str, after: &str) {
    check(pass, before, after);
}

/// The pass leaves the text, which is in canonical form, as it is.
pub(crate) fn check_unchanged(pass: &Pass, text: &str) {
    check(pass, text, text);
}

/// The pass leaves the text as it is and says why.
pub(crate) fn check_refused(pass: &Pass, text: &str, why: &'static str) {
    let mut g = parse(text);
    let log = run(pass, &mut g);
    assert_eq!(log.last().map(|e| e.outcome), Some(Err(Miss::Refused(why))), "{log:?}");
    assert_eq!(g.to_string().trim(), text.trim());
}

/// The statements of the result, without types: for tests of many small rewrites.
pub(crate) fn rewritten(pass: &Pass, before: &str) -> String {
    let mut g = parse(before);
    run(pass, &mut g);
    let text = g.to_string();
    let body = text.lines().skip(1).filter(|l| !l.starts_with('}') && !l.trim().starts_with("return"));
    body.map(|l| l.trim().rsplit_once(" : ").map_or(l.trim(), |(s, _)| s)).collect::<Vec<_>>().join("; ")
}
