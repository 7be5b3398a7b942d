//! The entry `step` of a language model on the device, over caches in its memory, against the processor: slots of unequal lengths,
//! prompts in chunks, sequences that join and leave, caches that grow.

mod common;

use fastinference::{Batch, CompileOptions, Compute, Device, DeviceOptions, HOST_KERNEL, Model, Session, SlotOptions};
use std::path::{Path, PathBuf};

fn model(device: Device, compute: Compute) -> Model {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shakespeare-moe");
    // A binary that is run on another machine does not find the folder that it was built in.
    let example = if example.is_dir() { example } else { "../examples/shakespeare-moe".into() };
    let built = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder: PathBuf = if built.is_dir() { built.join("kernels") } else { "kernels".into() };
    let on = DeviceOptions { device, code_objects: Some(folder), ..DeviceOptions::default() };
    Model::open(&example, &CompileOptions { on, compute: Some(compute), ..CompileOptions::default() }).unwrap()
}

fn open(model: &Model) -> Box<dyn Session> {
    let mut session = model.session(2);
    session.open_slots(SlotOptions { slots: 3, max_len: 300, max_bytes: u64::MAX }).unwrap();
    session
}

#[test]
fn hip_steps_agree_with_the_processor() {
    agree("hip_steps_agree_with_the_processor", Compute::F32, &|round, found, wanted| {
        for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
            assert!((f - w).abs() <= 1e-3 * w.abs().max(1.0), "round {round}, logit {i}: {f}, the processor gives {w}");
        }
    });
}

#[test]
fn hip_steps_in_f16_agree_with_the_processor_in_f32() {
    agree("hip_steps_in_f16_agree_with_the_processor_in_f32", Compute::F16, &|round, found, wanted| {
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        let apart = norm(&mut found.iter().zip(wanted).map(|(f, w)| f - w)) / norm(&mut wanted.iter().copied());
        // Eight times what one rounding to f16 may be off: some hundred roundings, of which each is off by less and either way.
        assert!(apart <= 2f64.powi(-8), "round {round}: logits are {apart:.1e} of their norm apart");
    });
}

/// Compares logits that were found with those wanted, of a round.
type Check<'a> = &'a dyn Fn(usize, &[f64], &[f64]);

/// Steps on the device, whose logits `check` compares with those of the processor in f32, round by round.
fn agree(test: &str, compute: Compute, check: Check<'_>) {
    if common::simulator(test).is_none() {
        return;
    }
    let device = std::env::var("HIP_TEST_DEVICE").map_or(Device::Simulator, |name| name.parse().unwrap());
    let (on_device, on_processor) = (model(device, compute), model(Device::Cpu, Compute::F32));
    let step = on_device.plan().entries.iter().find(|e| e.name == "step").expect("it is a decoder");
    let of_host =
        |s: &&fastinference::plan::Step| matches!(s, fastinference::plan::Step::Launch(l) if l.kernel == HOST_KERNEL);
    assert_eq!(step.steps.iter().filter(of_host).count(), 0, "nothing of `step` is left to the host");
    let (mut found, mut wanted) = (open(&on_device), open(&on_processor));
    let tokens = |n: usize, seed: usize| -> Vec<u32> { (0..n).map(|i| ((i * 37 + seed * 11) % 60) as u32).collect() };
    // Slots and how many tokens they get; the 250 make the caches grow, after which slot 0 begins again.
    let batches: [&[(u32, usize)]; 6] = [
        &[(0, 5), (2, 3)],
        &[(2, 1), (0, 1), (1, 4)],
        &[(0, 7), (1, 1)],
        &[(1, 250)],
        &[(0, 2), (2, 1)],
        &[(2, 1), (1, 1), (0, 1)],
    ];
    for (round, parts) in batches.iter().enumerate() {
        if round == 4 {
            found.truncate(0, 0).unwrap();
            wanted.truncate(0, 0).unwrap();
        }
        let mut batch = Batch::default();
        parts.iter().for_each(|(slot, n)| batch.push(*slot, &tokens(*n, round + *slot as usize)));
        let found = found.step(&batch).unwrap().as_tensor().unwrap().to_f64().unwrap();
        let wanted = wanted.step(&batch).unwrap().as_tensor().unwrap().to_f64().unwrap();
        assert_eq!(found.len(), wanted.len());
        check(round, &found, &wanted);
    }
}

/// Thousands of steps over 32 slots whose sequences begin and end at random; now and then the logits of one are compared with those
/// of its tokens alone. Takes seconds on a GPU: `HIP_TEST_DEVICE=hip:0 cargo test --release --test hip_steps -- --ignored`.
#[test]
#[ignore = "10,000 steps are for a GPU"]
fn hip_steps_of_sequences_that_join_and_leave() {
    const SLOTS: usize = 32;
    const STEPS: u64 = 10_000;
    let device = std::env::var("HIP_TEST_DEVICE").map_or(Device::Simulator, |name| name.parse().unwrap());
    let model = model(device, Compute::F32);
    let open = |slots: usize| {
        let mut session = model.session(1);
        session.open_slots(SlotOptions { slots, max_len: 256, max_bytes: u64::MAX }).unwrap();
        session
    };
    let (mut many, mut alone) = (open(SLOTS), open(1));
    let mut random = common::Random(11);
    let mut history: Vec<Vec<u32>> = vec![vec![]; SLOTS];
    let mut ends = [0usize; SLOTS];
    let (mut compared, mut ties, mut largest) = (0, 0, 0.0f64);
    for step in 0..STEPS {
        let mut batch = Batch::default();
        for slot in 0..SLOTS {
            if history[slot].len() >= ends[slot] {
                many.truncate(slot as u32, 0).unwrap();
                history[slot].clear();
                ends[slot] = 1 + random.next() as usize % 250;
            }
            // Some pause; those that begin get a prompt.
            if random.next().is_multiple_of(8) {
                continue;
            }
            let most = if history[slot].is_empty() { 20 } else { 1 };
            let count = (1 + random.next() as usize % most).min(ends[slot] - history[slot].len());
            let tokens: Vec<u32> = (0..count).map(|_| random.next() as u32 % 60).collect();
            history[slot].extend(&tokens);
            batch.push(slot as u32, &tokens);
        }
        if batch.parts.is_empty() {
            continue;
        }
        let logits = many.step(&batch).unwrap().as_tensor().unwrap().to_f64().unwrap();
        assert!(logits.iter().all(|v| v.is_finite()), "step {step}");
        if !step.is_multiple_of(STEPS / 200) {
            continue;
        }
        let at = random.next() as usize % batch.parts.len();
        let tokens = &history[batch.parts[at].slot as usize];
        let apart = |wanted: &[f64]| {
            let found = &logits[at * wanted.len()..][..wanted.len()];
            found.iter().zip(wanted).map(|(f, w)| (f - w).abs() / w.abs().max(1.0)).fold(0.0, f64::max)
        };
        alone.truncate(0, 0).unwrap();
        let mut differs = apart(&last_logits(&mut *alone, &[(0, tokens)]));
        // Where two experts are a rounding apart, kernels for many rows may choose another one than kernels for few: then 32 such sequences
        // at a time, token by token, choose as here. (At step 6250 the fourth and fifth expert of a token are 7e-8 apart.)
        if differs > 1e-3 {
            differs = apart(&in_a_crowd(&mut *open(SLOTS), SLOTS, tokens));
            ties += 1;
        }
        assert!(differs <= 1e-3, "step {step}: off by {differs}");
        largest = largest.max(differs);
        compared += 1;
    }
    println!("{STEPS} steps, {compared} compared, {ties} of them with a tie of experts, off by {largest:e} at most");
    assert!(ties <= 2, "{ties} ties are too many for chance");
}

/// The logits of the last part of a step.
fn last_logits(session: &mut dyn Session, parts: &[(u32, &[u32])]) -> Vec<f64> {
    let mut batch = Batch::default();
    parts.iter().for_each(|(slot, tokens)| batch.push(*slot, tokens));
    let logits = session.step(&batch).unwrap().as_tensor().unwrap().to_f64().unwrap();
    logits[logits.len() / parts.len() * (parts.len() - 1)..].to_vec()
}

/// The logits after a sequence that every slot writes at once, token by token.
fn in_a_crowd(session: &mut dyn Session, slots: usize, tokens: &[u32]) -> Vec<f64> {
    let step = |token: &u32| {
        let parts: Vec<(u32, &[u32])> = (0..slots as u32).map(|slot| (slot, std::slice::from_ref(token))).collect();
        last_logits(session, &parts)
    };
    tokens.iter().map(step).last().unwrap()
}
