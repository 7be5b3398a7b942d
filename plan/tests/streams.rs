//! Plans of several streams: every sync that is needed is there, and no other.

mod common;

use common::graph;
use ir::{NodeId, Verified};
use plan::{
    CheckedPlan, Entry, Finding, LaunchOptions, LowerError, Memory, Pacing, Plan, PlanBuilder, Step, Stream, SyncKind,
    SyncPoint, Target, check,
};
use std::num::NonZeroU32;

/// Two branches on streams of their own, joined on the host.
struct Branches;

fn order(signaller: u8, waiter: u8) -> SyncPoint {
    SyncPoint { signaller: Stream(signaller), waiter: Stream(waiter), kind: SyncKind::Order }
}

impl Target for Branches {
    fn name(&self) -> &str {
        "branches"
    }

    fn lower(&self, graph: Verified<'_>, node: NodeId, plan: &mut PlanBuilder<'_>) -> Result<(), LowerError> {
        let op = graph.graph().op(node).unwrap();
        let stream = match op.name() {
            "exp" => Stream(1),
            "neg" => Stream(2),
            _ => Stream::HOST,
        };
        if stream == Stream::HOST {
            plan.sync(order(1, 0));
            plan.sync(order(2, 0));
        } else {
            // The run before may still be reading what this one overwrites.
            plan.sync(order(0, stream.0));
        }
        plan.launch(node, op.name(), LaunchOptions { stream: Some(stream), ..LaunchOptions::default() })
    }
}

fn branches() -> Plan {
    let g = graph("graph @g(%x: f32[N]) { %a = exp(%x) %b = neg(%x) %c = add(%a, %b) return %c }");
    plan::build(ir::verify(&g).unwrap(), &Branches, "none").unwrap()
}

fn checked(mutate: impl FnOnce(&mut Vec<Step>)) -> Result<CheckedPlan, Vec<Finding>> {
    let mut plan = branches();
    mutate(&mut plan.entries[0].steps);
    check(plan)
}

#[test]
fn removing_any_sync_is_a_race() {
    checked(|_| ()).unwrap_or_else(|f| panic!("{}", f[0]));
    let syncs: Vec<usize> = (0..branches().entries[0].steps.len())
        .filter(|i| matches!(branches().entries[0].steps[*i], Step::Sync(_)))
        .collect();
    assert_eq!(syncs.len(), 4);
    for sync in syncs {
        // The step stays, so that lives of buffers do; a pace orders nothing.
        let findings = checked(|steps| steps[sync] = pace()).unwrap_err();
        assert!(findings[0].problem.contains("no sync orders it"), "{}", findings[0]);
    }
}

fn pace() -> Step {
    Step::Sync(SyncPoint { kind: SyncKind::Pace { reason: "a chunk".into() }, ..order(1, 2) })
}

#[test]
fn a_sync_that_orders_nothing_is_refused() {
    let findings = checked(|steps| steps.push(Step::Sync(order(2, 1)))).unwrap_err();
    assert!(findings[0].problem.contains("orders nothing"), "{}", findings[0]);
    checked(|steps| steps.push(pace())).unwrap();
}

#[test]
fn a_sync_before_the_write_does_not_help() {
    let findings = checked(|steps| {
        let join = steps.iter().position(|s| *s == Step::Sync(order(2, 0))).unwrap();
        let before = steps.iter().position(|s| matches!(s, Step::Launch(l) if l.kernel == "neg")).unwrap();
        let (sync, moved) = (steps[join].clone(), std::mem::replace(&mut steps[join], pace()));
        assert_eq!(sync, moved);
        steps[before - 1] = Step::Sync(order(0, 2));
        steps.insert(before, sync);
        steps.remove(join + 1);
    });
    assert!(findings.unwrap_err()[0].problem.contains("no sync orders it"));
}

#[test]
fn memory_that_two_streams_reuse_needs_a_sync() {
    // d dies before e is written on another stream; they share bytes.
    struct Chain;
    impl Target for Chain {
        fn name(&self) -> &str {
            "chain"
        }
        fn lower(&self, graph: Verified<'_>, node: NodeId, plan: &mut PlanBuilder<'_>) -> Result<(), LowerError> {
            let graph = graph.graph();
            let name = graph.node(node).names[0].clone();
            let stream = Stream(u8::from(matches!(&*name, "e" | "y2")));
            plan.launch(node, "k", LaunchOptions { stream: Some(stream), ..LaunchOptions::default() })
        }
    }
    let text = "graph @g(%x: f32[N]) { %d = exp(%x) %y1 = neg(%d) %e = exp(%x) %y2 = neg(%e) return %y1, %y2 }";
    let g = graph(text);
    let plan = plan::build(ir::verify(&g).unwrap(), &Chain, "none").unwrap();
    assert_eq!(plan::arena::layout(&plan.entries[0], &|_| Some(16)).unwrap().total, 64, "d and e share memory");
    let findings = check(plan).unwrap_err();
    assert!(findings[0].problem.contains("may share bytes"), "{}", findings[0]);
}

/// A device beside the host: what it computes lies in its own memory, and the planner finds the syncs. It may hold so many steps.
struct Device {
    pace: Option<NonZeroU32>,
}

const COMPUTE: Stream = Stream(1);

impl Target for Device {
    fn name(&self) -> &str {
        "device"
    }

    fn copies_on(&self) -> Stream {
        COMPUTE
    }

    fn places_syncs(&self) -> bool {
        false
    }

    fn pace(&self, _: &Entry) -> Option<NonZeroU32> {
        self.pace
    }

    fn lower(&self, graph: Verified<'_>, node: NodeId, plan: &mut PlanBuilder<'_>) -> Result<(), LowerError> {
        let graph = graph.graph();
        let on_host = graph.op(node).unwrap().name() == "sin";
        let (stream, memory) = if on_host { (Stream::HOST, Memory::HOST) } else { (COMPUTE, Memory::DEVICE) };
        graph.operands(node).iter().for_each(|v| plan.bring(*v, memory));
        plan.launch(node, "k", LaunchOptions { stream: Some(stream), memory, ..LaunchOptions::default() })
    }
}

fn device_plan(text: &str) -> Plan {
    plan::build(ir::verify(&graph(text)).unwrap(), &Device { pace: None }, "none").unwrap()
}

fn syncs(plan: &Plan) -> usize {
    plan.entries[0].steps.iter().filter(|s| matches!(s, Step::Sync(_))).count()
}

#[test]
fn a_device_alone_needs_no_sync() {
    let plan = device_plan("graph @g(%x: f32[N]) { %a = exp(%x) %b = neg(%a) return %b, %a }");
    let copies = plan.entries[0].steps.iter().filter(|s| matches!(s, Step::Copy(_))).count();
    assert_eq!((syncs(&plan), copies), (0, 3));
    check(plan).unwrap_or_else(|f| panic!("{}", f[0]));
}

#[test]
fn placed_syncs_are_enough_and_none_is_idle() {
    let text = "graph @g(%x: f32[N]) { %a = exp(%x) %b = sin(%a) %c = neg(%b) %d = add(%c, %a) %e = sin(%d) \
         %f = sin(%x) %h = add(%f, %e) %i = mul(%h, %x) return %i, %e }";
    let plan = device_plan(text);
    assert!(syncs(&plan) > 2, "{:?}", plan.entries[0].steps);
    let all = plan.entries[0].steps.len();
    for at in 0..all {
        let mut mutant = plan.clone();
        let Step::Sync(sync) = &mut mutant.entries[0].steps[at] else { continue };
        sync.kind = SyncKind::Pace { reason: "a mutant".into() };
        assert!(check(mutant).unwrap_err()[0].problem.contains("no sync orders it"), "step {at} is idle");
    }
    check(plan).unwrap_or_else(|f| panic!("{}", f[0]));
}

#[test]
fn a_value_is_copied_to_a_memory_once() {
    let plan = device_plan(
        "graph @g(%x: f32[N]) { %a = exp(%x) %b = neg(%x) %s = sin(%a) %c = add(%a, %b) %d = add(%c, %s) return %d }",
    );
    let copied = |name: &str| {
        let of = |s: &&Step| matches!(s, Step::Copy(t) if &*t.value == name);
        plan.entries[0].steps.iter().filter(of).count()
    };
    assert_eq!((copied("x"), copied("a"), copied("s"), copied("d")), (1, 1, 1, 1));
    check(plan).unwrap_or_else(|f| panic!("{}", f[0]));
}

#[test]
fn an_output_of_the_host_that_the_device_reads_is_not_copied_back() {
    let plan = device_plan("graph @g(%x: f32[N]) { %s = sin(%x) %d = neg(%s) return %d, %s }");
    let copied = |name: &str| {
        let of = |s: &&Step| matches!(s, Step::Copy(t) if &*t.value == name);
        plan.entries[0].steps.iter().filter(of).count()
    };
    assert_eq!((copied("s"), copied("d")), (1, 1));
    check(plan).unwrap_or_else(|f| panic!("{}", f[0]));
}

fn paces(plan: &Plan) -> Vec<usize> {
    (0..plan.entries[0].steps.len()).filter(|at| plan.entries[0].steps[*at].is_pace()).collect()
}

/// The most steps that the stream holds between two waits of the host, over many runs between which nobody waits.
fn deepest(plan: &Plan) -> u32 {
    let (mut held, mut most) = (0, 0);
    for step in std::iter::repeat_n(&plan.entries[0].steps, 50).flatten() {
        match step {
            Step::Sync(sync) if sync.waiter == Stream::HOST => held = 0,
            Step::Launch(l) if l.stream != Stream::HOST => held += 1,
            Step::Copy(_) => held += 1,
            _ => {}
        }
        most = most.max(held);
    }
    most
}

#[test]
fn a_pace_bounds_what_a_stream_holds() {
    let long: String = (1..40).map(|i| format!("%v{i} = exp(%v{}) ", i - 1)).collect();
    let texts = [
        format!("graph @g(%v0: f32[N]) {{ {long} return %v39 }}"),
        "graph @g(%x: f32[N]) { %a = exp(%x) %b = sin(%a) %c = neg(%b) %d = add(%c, %a) return %d, %b }".to_string(),
        "graph @g(%x: f32[N]) { %a = sin(%x) return %a }".to_string(),
    ];
    for text in &texts {
        let free = device_plan(text);
        for every in [1, 2, 3, 7, 41, 100] {
            let g = graph(text);
            let plan = plan::build(ir::verify(&g).unwrap(), &Device { pace: NonZeroU32::new(every) }, "none").unwrap();
            assert!(deepest(&plan) <= every, "{every}: {:?}", plan.entries[0].steps);
            check(plan.clone()).unwrap_or_else(|f| panic!("every {every}: {}", f[0]));
            for at in paces(&plan) {
                let mut mutant = plan.clone();
                // In its place something that waits for nobody.
                let Step::Sync(sync) = &mut mutant.entries[0].steps[at] else { unreachable!() };
                sync.waiter = COMPUTE;
                let found = check(mutant).unwrap_err();
                let last = at + 1 == plan.entries[0].steps.len();
                let problem = if last { "does not wait for stream 1 at the end" } else { "may hold more than" };
                assert!(found[0].problem.contains(problem), "{}", found[0]);
            }
            // Taken out again, nothing is left of it.
            let plan = plan::repace(check(plan).unwrap(), Pacing::Never, |_| None).unwrap();
            assert_eq!(plan.entries[0], free.entries[0]);
        }
    }
}
