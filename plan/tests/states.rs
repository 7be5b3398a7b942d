//! A state is changed in place, and every read finds the version that the graph says.

mod common;

use common::{graph, plan_of};
use plan::{Loc, Place, Plan, Step, check};

const STEP: &str = "
graph @step(%q: f32[B, 1, 8], %k: f32[B, 1, 8], %v: f32[B, 1, 8], %s: i32[B], %l: i32[B], %n: i32[B], state %kc: f32[N, 1, C, 8], state %vc: f32[N, 1, C, 8]) {
  %k1, %v1 = kv_write(%s, %l, %n, %kc, %k, %vc, %v)
  %y = cached_attention(%q, %k1, %v1, %s, %l, %n) {heads = 1}
  return %y, %k1 as \"kc\", %v1 as \"vc\"
}";

fn findings(plan: Plan) -> String {
    check(plan).map(|_| String::new()).unwrap_or_else(|found| format!("{found:?}"))
}

#[test]
fn a_write_goes_in_place_and_survives_the_store() {
    let plan = plan_of(&graph(STEP));
    let entry = &plan.entries[0];
    assert_eq!(entry.steps[0].to_string(), "%k1 = kv_write(in3, in4, in5, state0, in1, state1, in2) -> state0, state1");
    assert_eq!((entry.inputs.len(), entry.outputs.len(), entry.states.len()), (6, 1, 2));
    assert_eq!(entry.states[1].name, "vc".into());
    let checked = check(plan).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("a.plan");
    plan::write(&checked, &plan::GraphWeights::new(&checked), &at, Default::default()).unwrap();
    assert_eq!(plan::load(&at).unwrap().plan.entries, checked.entries);
}

#[test]
fn a_read_of_the_version_before_is_found() {
    let mut plan = plan_of(&graph(STEP));
    plan.entries[0].steps.swap(0, 1);
    assert!(findings(plan).contains("operand 1 is `k1`, but state0 holds `kc`"));
    let after =
        STEP.replace("return %y,", "%old = cached_attention(%q, %kc, %vc, %s, %l, %n) {heads = 1}\n  return %old,");
    assert!(findings(plan_of(&graph(&after))).contains("is `kc`, but state0 holds `k1`"));
}

#[test]
fn a_write_elsewhere_and_a_lost_write_are_found() {
    let mut plan = plan_of(&graph(STEP));
    let Step::Launch(launch) = &mut plan.entries[0].steps[0] else { panic!("a launch") };
    launch.writes.swap(0, 1);
    let found = findings(plan.clone());
    assert!(found.contains("operand 1 is `k1`, but state0 holds `v1`"), "{found}");
    let Step::Launch(launch) = &mut plan.entries[0].steps[0] else { panic!("a launch") };
    launch.writes = vec![Loc::from(Place::Output(0)), Loc::from(Place::State(1))];
    assert!(findings(plan.clone()).contains("state `kc`"));
    plan.entries[0].states.pop();
    assert!(!findings(plan).is_empty());
}

#[test]
fn a_state_that_nothing_changes_in_place_is_copied_back() {
    let text =
        "graph @step(%x: f32[4], state %sum: f32[4]) {\n  %next = add(%sum, %x)\n  return %x, %next as \"sum\"\n}";
    let verified = graph(text);
    let error = plan::build(ir::verify(&verified).unwrap(), &common::Everything, "").map(|plan| check(plan).map(drop));
    // An addition reads the state that it replaces: that is in place.
    assert_eq!(error.unwrap(), Ok(()));
    let text = "graph @step(%x: f32[4], state %last: f32[4]) {\n  %y = neg(%last)\n  return %y, %x as \"last\"\n}";
    let plan = plan_of(&graph(text));
    assert_eq!(plan.entries[0].steps.last().unwrap().to_string(), "%x = copy(in0) -> state0");
    check(plan).unwrap();
}
