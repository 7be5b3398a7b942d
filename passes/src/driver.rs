//! Runs passes one after the other: verifies after each, looks into bodies, reports, and audits on request.

use crate::audit::{Audit, Difference};
use crate::narrow_floats::Narrowed;
use crate::pass::{Context, Entry, Pass};
use ir::attr::Attr;
use ir::graph::{Graph, NodeId};
use ir::ops::Op;
use ir::verify::{VerifyError, verify_within};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Looks at the graph after a pass.
pub type Observer<'a> = dyn FnMut(&'static str, &Graph) + 'a;

/// A part of a pipeline.
#[derive(Clone)]
pub enum Stage {
    /// One pass.
    Once(Pass),
    /// Passes that feed each other, repeated until none changes anything, at most `rounds` times.
    Repeat {
        /// The passes, in order.
        passes: Vec<Pass>,
        /// The most repetitions.
        rounds: usize,
    },
}

/// What one run of one pass did.
#[derive(Debug, Clone, PartialEq)]
pub struct PassReport {
    /// The pass.
    pub pass: &'static str,
    /// Nodes before.
    pub nodes_before: usize,
    /// Nodes after.
    pub nodes_after: usize,
    /// Places rewritten.
    pub rewrites: usize,
    /// How long it took, verification included.
    pub elapsed: Duration,
}

/// What a pipeline did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Every run of a pass, in order.
    pub passes: Vec<PassReport>,
    /// Every rewrite and refusal with its pass, in order.
    pub log: Vec<(&'static str, Entry)>,
}

/// A pass that broke the graph: a defect of this library, never of the model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PassError {
    /// The graph no longer verifies.
    #[error("pass `{pass}` broke the graph: {source}")]
    Broken {
        /// The pass.
        pass: &'static str,
        /// What is wrong.
        source: VerifyError,
    },
    /// The graph computes something else.
    #[error("pass `{pass}` changed results: {source}")]
    Differs {
        /// The pass.
        pass: &'static str,
        /// The first value that differs.
        source: Difference,
    },
}

/// Runs a pipeline over a graph.
pub struct Driver<'a> {
    /// What to run.
    pub stages: Vec<Stage>,
    /// Called after every pass, for printing.
    pub observe: Option<&'a mut Observer<'a>>,
    /// Ends after the first run of the pass of this name.
    pub stop_after: Option<String>,
    /// Evaluates before and after every pass and compares.
    pub audit: Option<Audit>,
    /// Constants that were rounded to a narrower type; given to several drivers, their graphs share them.
    pub narrowed: Narrowed,
}

impl<'a> Driver<'a> {
    /// Only runs and verifies.
    pub fn new(stages: Vec<Stage>) -> Driver<'a> {
        Driver { stages, observe: None, stop_after: None, audit: None, narrowed: Narrowed::default() }
    }

    /// Runs all stages. On an error the graph is as the pass left it.
    pub fn run(&mut self, graph: &mut Graph) -> Result<Report, PassError> {
        let mut report = Report::default();
        for stage in self.stages.clone() {
            let (passes, rounds) = match stage {
                Stage::Once(pass) => (vec![pass], 1),
                Stage::Repeat { passes, rounds } => (passes, rounds),
            };
            for _ in 0..rounds {
                let mut changed = false;
                for pass in &passes {
                    changed |= self.step(pass, graph, &mut report)?;
                    if self.stop_after.as_deref() == Some(pass.name) {
                        return Ok(report);
                    }
                }
                if !changed {
                    break;
                }
            }
        }
        Ok(report)
    }

    fn step(&mut self, pass: &Pass, graph: &mut Graph, report: &mut Report) -> Result<bool, PassError> {
        let started = Instant::now();
        let before = self.audit.is_some().then(|| graph.clone());
        let nodes_before = graph.node_count();
        let mut log = vec![];
        run_nested(pass, graph, false, &self.narrowed, &mut log);
        let rewrites = log.iter().filter(|e| e.outcome.is_ok()).count();
        report.log.extend(log.into_iter().map(|e| (pass.name, e)));
        verify_nested(graph, &BTreeSet::new()).map_err(|source| PassError::Broken { pass: pass.name, source })?;
        let (nodes_after, elapsed) = (graph.node_count(), started.elapsed());
        report.passes.push(PassReport { pass: pass.name, nodes_before, nodes_after, rewrites, elapsed });
        if let (Some(audit), Some(before)) = (&self.audit, before) {
            audit.compare(&before, graph).map_err(|source| PassError::Differs { pass: pass.name, source })?;
        }
        if let Some(observe) = &mut self.observe {
            observe(pass.name, graph);
        }
        Ok(rewrites > 0)
    }
}

/// Runs a pass on a graph, then on every body in it.
fn run_nested(pass: &Pass, graph: &mut Graph, in_body: bool, narrowed: &Narrowed, log: &mut Vec<Entry>) {
    let mut cx = Context { in_body, log: vec![], narrowed: narrowed.clone() };
    pass.run(graph, &mut cx);
    log.append(&mut cx.log);
    for id in with_bodies(graph) {
        let op = graph.op(id).expect("it has a body");
        let (name, mut attrs) = (op.name(), op.attrs());
        let first = log.len();
        for attr in attrs.values_mut() {
            if let Attr::Graph(body) = attr {
                run_nested(pass, Arc::make_mut(body), true, narrowed, log);
            }
        }
        if log[first..].iter().any(|e| e.outcome.is_ok()) {
            let op = Op::parse(name, &attrs).expect("only bodies changed");
            graph.set_op(id, op);
        }
    }
}

fn with_bodies(graph: &Graph) -> Vec<NodeId> {
    graph.order().into_iter().filter(|id| graph.op(*id).is_some_and(Op::has_body)).collect()
}

/// Verifies a graph and its bodies; `outer` symbols are bound by what is around it.
fn verify_nested(graph: &Graph, outer: &BTreeSet<Arc<str>>) -> Result<(), VerifyError> {
    verify_within(graph, outer)?;
    let nodes = with_bodies(graph);
    if nodes.is_empty() {
        return Ok(());
    }
    let mut bound = outer.clone();
    for id in graph.order() {
        let types = graph.results(id).filter_map(|v| graph.tensor_ty(v)?.dims());
        bound.extend(types.flatten().flat_map(ir::Dim::symbols));
    }
    for id in nodes {
        for attr in graph.op(id).expect("it has a body").attrs().values() {
            if let Attr::Graph(body) = attr {
                verify_nested(body, &bound)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::Body;
    use ir::ops::Unary;
    use ir::scalar::UnaryFn;

    /// A pass with a mistake: it takes every `exp` for `tanh`.
    const WRONG: Pass = Pass { name: "confuse", body: Body::Whole(confuse) };

    fn confuse(graph: &mut Graph, cx: &mut Context) {
        for id in graph.order() {
            if graph.op(id).is_some_and(|op| op.name() == "exp") {
                graph.set_op(id, Unary { f: UnaryFn::Tanh });
                cx.note("confuse", graph, id.into(), Ok(()));
            }
        }
    }

    #[test]
    fn an_audit_names_the_pass_and_the_node_that_differ() {
        let text = "graph @g(%x: f32[N]) { %a = neg(%x) %b = exp(%a) %y = neg(%b) return %y }";
        let mut g = ir::text::parse(text).unwrap();
        let mut driver = Driver::new(vec![Stage::Once(WRONG)]);
        driver.audit = Some(Audit::of(&g));
        let error = driver.run(&mut g).unwrap_err().to_string();
        assert!(error.contains("`confuse`") && error.contains("`b`"), "{error}");
    }

    #[test]
    fn an_observer_sees_every_pass_until_the_last() {
        let mut g = ir::text::parse("graph @g(%x: f32[N]) { %y = exp(%x) return %y }").unwrap();
        let mut seen = vec![];
        let mut observe = |pass: &'static str, g: &Graph| seen.push((pass, g.to_string().contains("tanh")));
        let mut driver = Driver::new(vec![Stage::Once(WRONG), Stage::Once(crate::pipeline::EMPTY)]);
        driver.observe = Some(&mut observe);
        driver.stop_after = Some("confuse".into());
        driver.run(&mut g).unwrap();
        assert_eq!(seen, [("confuse", true)]);
    }
}
