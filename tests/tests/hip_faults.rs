//! Every call of a driver fails once, in every place and with every kind of status: each failure becomes an error that names the
//! call, the session runs again afterwards, and what was taken is given back exactly once.

mod common;

use backend_cpu::Cpu;
use backend_hip::{
    CodeStore, Compiler, Device, DeviceError, DriverCall, Fault, Faults, Hip, Mishap, Platform, StepWatch,
};
use common::{Random, compare, tensor};
use ir::graph::Kind;
use ir::{Datum, Graph, eval, text};
use plan::{GraphWeights, Pacing, Step, Weights};
use runtime::{Backend, Loaded, RunError};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Invalid value, out of memory, an illegal address, a failed launch, a status that no header knows, one below zero.
const STATUSES: [i32; 6] = [1, 2, 700, 719, 123_456, -5];
/// How many places of a call are tried: the first ones, and the last.
const PLACES: u64 = 4;

/// Work of the device, of the host, copies both ways, a kernel that reports indices, and scratch memory.
fn model(random: &mut Random) -> Graph {
    let text = "graph @g(%x: f32[N, 8], %i: i64[M]) { %w1 = weight : f32[16, 8] %w2 = weight : f32[4, 16] \
         %a = linear(%x, %w1) %b = cum_sum(%a) {axis = 1} %c = relu(%b) %d = linear(%c, %w2) \
         %e = acos(%d) %f = add(%e, %d) %u = gather(%a, %i) {axis = 1} return %f, %b, %u, %x }";
    let mut g = text::parse(text).unwrap();
    for id in g.order() {
        if matches!(g.node(id).kind, Kind::Weight(None)) {
            let t = tensor(&g, id.into(), &BTreeMap::new(), random, false);
            g.attach(id, t).unwrap();
        }
    }
    g
}

fn inputs(g: &Graph, n: i64, random: &mut Random) -> Vec<Datum> {
    let symbols = [("N".into(), n), ("M".into(), n + 1)].into();
    g.inputs.iter().map(|id| tensor(g, (*id).into(), &symbols, random, false).into()).collect()
}

fn open(g: &Graph, faults: &Faults) -> Result<Box<dyn Loaded>, String> {
    open_paced(g, faults, Pacing::Auto, StepWatch::default())
}

fn open_paced(g: &Graph, faults: &Faults, pacing: Pacing, steps: StepWatch) -> Result<Box<dyn Loaded>, String> {
    let device = Device::faulty(faults.clone()).map_err(|e: DeviceError| e.to_string())?;
    let store = CodeStore::new(Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels"));
    let mut hip = Hip::new(device, store, Arc::new(Cpu));
    hip.set_pacing(pacing);
    hip.watch_steps(steps);
    let plan = plan::check(plan::build(ir::verify(g).unwrap(), &hip, "").unwrap()).unwrap();
    let weights = Weights::from_source(&plan, &GraphWeights::new(&plan)).unwrap();
    hip.load(Arc::new(plan), weights).map_err(|e| e.to_string())
}

/// How often each call was made.
type Calls = BTreeMap<DriverCall, u64>;

/// Two sizes, so that memory grows; says which runs failed and why, and which calls were made before the session was closed.
fn use_it(
    g: &Graph,
    loaded: &dyn Loaded,
    runs: &[(Vec<Datum>, Vec<Datum>)],
    faults: &Faults,
) -> (Vec<RunError>, Calls) {
    let mut failed = vec![];
    let mut session = loaded.session(1);
    for (inputs, want) in runs {
        // The first failure is the fault; whoever tries again must be served.
        for attempt in 0..2 {
            match session.run(inputs) {
                Ok(got) => {
                    for (o, (got, want)) in g.outputs.iter().zip(got.iter().zip(want)) {
                        compare(&o.name, g, got, want);
                    }
                    break;
                }
                Err(e) => {
                    assert_eq!(attempt, 0, "the second attempt fails too: {e}");
                    failed.push(e);
                }
            }
        }
    }
    (failed, faults.made())
}

/// What was taken and not given back, and what was given back twice.
fn balance(faults: &Faults) -> Vec<String> {
    use DriverCall::*;
    let pairs = [(Alloc, Free), (HostAlloc, HostFree), (StreamCreate, StreamDestroy), (ModuleLoad, ModuleUnload)];
    let mut wrong = vec![];
    for (take, give) in pairs {
        if faults.open(take, give) != 0 {
            wrong.push(format!("{} leaks {}", take.name(), faults.open(take, give)));
        }
        if faults.refused(give) != 0 {
            wrong.push(format!("{} happens twice", give.name()));
        }
    }
    wrong
}

fn is_there(test: &str) -> bool {
    let found = Compiler::find(Platform::Simulator);
    found.inspect_err(|e| println!("{test} is skipped: {e}")).is_ok()
}

/// The model, two runs with what they give, and which calls are made without faults: before the session is closed, and in all.
type Scene = (Graph, Vec<(Vec<Datum>, Vec<Datum>)>, Calls, Calls);

fn scene() -> Scene {
    let mut random = Random(5);
    let g = model(&mut random);
    let runs = [3, 40].map(|n| inputs(&g, n, &mut random)).map(|inputs| {
        let want = eval::run(&g, &inputs).unwrap();
        (inputs, want)
    });
    let faults = Faults::default();
    let loaded = open(&g, &faults).unwrap();
    let (errors, before) = use_it(&g, &*loaded, &runs, &faults);
    assert_eq!(errors, []);
    drop(loaded);
    assert_eq!(balance(&faults), [""; 0]);
    (g, runs.to_vec(), before, faults.made())
}

/// Calls whose failure nobody can be told of: they give something back.
fn gives_back(call: DriverCall) -> bool {
    use DriverCall::*;
    matches!(call, Free | HostFree | StreamDestroy | ModuleUnload)
}

#[test]
fn hip_faults_become_errors_that_name_the_call() {
    if !is_there("hip_faults_become_errors_that_name_the_call") {
        return;
    }
    let (g, runs, before, made) = scene();
    use DriverCall::*;
    for call in [Init, DeviceCount, MakeCurrent, Alloc, HostAlloc, ToDevice, ToHost, Fill, StreamCreate, Wait, Launch] {
        assert!(made.contains_key(&call), "the model makes no {call:?}");
    }
    let mut tried = 0;
    for (call, times) in made {
        let places = (1..=times).filter(|n| *n <= PLACES || *n + 1 >= times);
        for (nth, mishap) in places.flat_map(|n| STATUSES.map(|code| (n, code))) {
            let fault = Fault { call, nth, on: false, mishap: Mishap::Status(mishap) };
            let faults = Faults::new(vec![fault]);
            tried += 1;
            let errors: Vec<String> = match open(&g, &faults) {
                Err(e) => vec![e],
                Ok(loaded) => use_it(&g, &*loaded, &runs, &faults).0.iter().map(ToString::to_string).collect(),
            };
            // What a failed call of `give back` keeps is the driver's; so is what cannot be reached.
            let kept = gives_back(call) || call == MakeCurrent;
            assert!(kept || balance(&faults).is_empty(), "{fault}: {:?}", balance(&faults));
            let (name, status) = (call.name(), format!("({mishap})"));
            let told = errors.len() == 1 && errors[0].contains(name) && errors[0].contains(&status);
            // Of what happens while things are given back nobody can be told.
            let late = gives_back(call) || nth > before.get(&call).copied().unwrap_or(0);
            assert!(told || late && errors.is_empty(), "{fault}: {errors:?}");
        }
    }
    println!("{tried} faults");
    assert!(tried > 200, "{tried}");
}

#[test]
fn hip_faults_of_a_run_name_the_node() {
    if !is_there("hip_faults_of_a_run_name_the_node") {
        return;
    }
    let (g, runs, ..) = scene();
    for (fault, node) in [("launch:1:719", "a"), ("to-device:3:700", "x"), ("launch:3:2", "c")] {
        let faults = Faults::new(vec![fault.parse().unwrap()]);
        let loaded = open(&g, &faults).unwrap();
        let (errors, _) = use_it(&g, &*loaded, &runs, &faults);
        let [RunError::Device { node: found, .. }] = &errors[..] else { panic!("{fault}: {errors:?}") };
        println!("{fault}: {}", errors[0]);
        assert_eq!(&**found, node, "{fault}: {errors:?}");
    }
}

#[test]
fn hip_a_device_that_is_lost_fails_every_run_and_harms_nothing() {
    if !is_there("hip_a_device_that_is_lost_fails_every_run_and_harms_nothing") {
        return;
    }
    let (g, runs, ..) = scene();
    // An illegal address makes every later call of a GPU fail.
    let lost: Vec<Fault> =
        DriverCall::ALL.iter().map(|c| Fault { call: *c, nth: 1, on: true, mishap: Mishap::Status(700) }).collect();
    let (first, _) = &runs[0];
    let faults = Faults::default();
    let loaded = open(&g, &faults).unwrap();
    let mut session = loaded.session(1);
    session.run(first).unwrap();
    faults.set(lost);
    for _ in 0..3 {
        let error = session.run(first).unwrap_err().to_string();
        assert!(error.contains("(700)"), "{error}");
    }
    faults.set(vec![]);
    session.run(first).unwrap();
    drop(session);
    drop(loaded);
    assert_eq!(balance(&faults), [""; 0]);
}

/// What the device is given, in order: first results of nodes, and values that move.
fn on_device(loaded: &dyn Loaded) -> Vec<Arc<str>> {
    let name = |step: &Step| match step {
        Step::Launch(launch) => launch.node.clone(),
        Step::Copy(transfer) => transfer.value.clone(),
        Step::Sync(_) => unreachable!("it is queued nowhere"),
    };
    loaded.plan().entries[0].steps.iter().filter(|step| step.queued_on().is_some()).map(name).collect()
}

#[test]
fn hip_faults_that_a_wait_finds_name_the_step_or_the_steps_that_it_may_be() {
    if !is_there("hip_faults_that_a_wait_finds_name_the_step_or_the_steps_that_it_may_be") {
        return;
    }
    let (g, runs, ..) = scene();
    let (inputs, _) = &runs[0];
    // The error, where a run waits so often.
    let fails_at_wait = |pacing: Pacing, wait: u64| {
        let faults = Faults::default();
        let loaded = open_paced(&g, &faults, pacing, StepWatch::default()).unwrap();
        let mut session = loaded.session(1);
        session.run(inputs).unwrap();
        let nth = faults.made()[&DriverCall::Wait] + wait;
        faults.set(vec![Fault { call: DriverCall::Wait, nth, on: false, mishap: Mishap::Status(719) }]);
        match session.run(inputs).err()? {
            RunError::Device { node, reason } => Some((node, reason, on_device(&*loaded))),
            error => panic!("{error}"),
        }
    };
    // With a pace of 1 there is a wait after every step of the device; a copy to the host waits by itself too.
    let one_by_one = (1..).map_while(|wait| fails_at_wait(Pacing::Every(NonZeroU32::MIN), wait));
    let mut named: Vec<Arc<str>> = vec![];
    let mut steps = vec![];
    for (node, reason, all) in one_by_one {
        assert!(reason.contains("(719)") && !reason.contains("may be any"), "{reason}");
        named.push(node);
        steps = all;
    }
    named.dedup();
    steps.dedup();
    let end = named.split_off(steps.len());
    assert_eq!(named, steps);
    assert!(end.iter().all(|name| &**name == "the end of the run"), "{end:?}");
    let (node, reason, steps) = fails_at_wait(Pacing::Never, 1).unwrap();
    let queued = 1 + steps.iter().rposition(|step| *step == node).unwrap();
    let told = format!("any of {queued} steps, from this back to `{}` (--sync-every 1 tells which)", steps[0]);
    assert!(queued > 1 && reason.contains(&told), "{reason}, not {told}");
}

/// What the proof of a pace takes for granted of the backend (plan/src/pace.rs).
#[test]
fn hip_queues_no_more_than_the_pace_from_run_to_run_whether_they_fail_or_not() {
    if !is_there("hip_queues_no_more_than_the_pace_from_run_to_run_whether_they_fail_or_not") {
        return;
    }
    let (g, runs, ..) = scene();
    let (inputs, _) = &runs[0];
    for pace in [1, 2, 3, 5, 100] {
        let faults = Faults::default();
        // How often the host had waited when each step of a run began.
        let begun: Arc<Mutex<Vec<u64>>> = Arc::default();
        let (writes, counts) = (begun.clone(), faults.clone());
        let watch = StepWatch::new(move |_| {
            let waits = counts.made().get(&DriverCall::Wait).copied().unwrap_or(0);
            writes.lock().unwrap().push(waits);
        });
        let loaded = open_paced(&g, &faults, Pacing::Every(NonZeroU32::new(pace).unwrap()), watch).unwrap();
        let steps = &loaded.plan().entries[0].steps;
        let work: Vec<bool> =
            steps.iter().filter(|s| !matches!(s, Step::Sync(_))).map(|s| s.queued_on().is_some()).collect();
        let mut session = loaded.session(1);
        let (mut held, mut waited, mut deepest) = (0, 0, 0);
        let mut run = || {
            begun.lock().unwrap().clear();
            let done = session.run(inputs).is_ok();
            let begun = begun.lock().unwrap();
            for (waits, on_device) in begun.iter().zip(&work) {
                if *waits > waited {
                    (held, waited) = (0, *waits);
                }
                held += u32::from(*on_device);
                deepest = deepest.max(held);
            }
            assert!(!done || begun.len() == work.len());
            done
        };
        assert!(run() && run());
        for call in [DriverCall::Launch, DriverCall::ToDevice, DriverCall::ToHost] {
            let fails = |ahead: &u64| {
                let nth = faults.made()[&call] + ahead;
                faults.set(vec![Fault { call, nth, on: false, mishap: Mishap::Status(1) }]);
                let done = run();
                faults.set(vec![]);
                !done
            };
            let places = (1..).take_while(fails).count();
            assert!(places > 0, "{}", call.name());
            assert!(run());
        }
        assert!(deepest <= pace && deepest >= pace.min(3), "{deepest} where {pace} are allowed");
    }
}
