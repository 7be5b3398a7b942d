//! Plans on disk: they come back as they were, and nothing that happened to their files is a crash or a wrong plan.

mod common;

use common::{graph, plan_of, transformer};
use ir::graph::Kind;
use ir::{DType, Graph, Tensor};
use plan::{
    CheckedPlan, GraphWeights, Hash, Layout, Source, StoreError, WeightInfo, WeightSource, WriteOptions, check,
};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// The graph with numbers in its weights.
fn with_data(text: &str) -> Graph {
    let mut g = graph(text);
    for id in g.order() {
        if !matches!(g.node(id).kind, Kind::Weight(None)) {
            continue;
        }
        let ty = g.tensor_ty(id.into()).unwrap().clone();
        let dims = ty.shape.as_const().unwrap();
        let seed = g.name(id.into()).bytes().map(u64::from).sum::<u64>();
        let values: Vec<f64> =
            (0..dims.iter().product()).map(|i: usize| ((i as u64 * 37 + seed) % 101) as f64).collect();
        g.attach(id, Tensor::from_f64(ty.dtype, &dims, &values).unwrap()).unwrap();
    }
    g
}

fn checked(g: &Graph) -> CheckedPlan {
    check(plan_of(g)).unwrap_or_else(|f| panic!("{}", f[0]))
}

fn written(g: &Graph, folder: &Path) -> CheckedPlan {
    let plan = checked(g);
    plan::write(&plan, &GraphWeights::new(&plan), folder, WriteOptions::default()).unwrap();
    plan
}

#[test]
fn a_plan_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("net.plan");
    let g = with_data(&transformer(2));
    let plan = written(&g, &folder);
    let loaded = plan::load(&folder).unwrap();

    let mut expected = (*plan).clone();
    for (key, info) in &mut expected.weights {
        info.hash = loaded.plan.weights[key].hash;
        assert!(info.hash.is_some());
    }
    assert_eq!(*loaded.plan, expected);
    assert_eq!(expected.weights["wq0"].layout, Layout::Panel16);
    assert_eq!(expected.weights["table"].layout, Layout::RowMajor, "gather reads it row by row");
    loaded.weights.verify(&loaded.plan).unwrap();

    let here = plan::Weights::from_source(&plan, &GraphWeights::new(&plan)).unwrap();
    for (key, tensor) in here.iter() {
        assert_eq!(Some(tensor), loaded.weights.get(key), "{key}");
    }
    let whole = plan::graph_with_weights(&loaded.plan, &loaded.plan.entries[0], &loaded.weights).unwrap();
    for id in g.order() {
        if let Some(t) = g.constant_of(id.into()) {
            let name = g.name(id.into());
            let back = whole.order().into_iter().find(|n| whole.name((*n).into()) == name).unwrap();
            assert_eq!(whole.constant_of(back.into()), Some(t), "{name}");
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the plan");
}

#[test]
fn writing_never_replaces_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("net.plan");
    let g = with_data(&transformer(1));
    let plan = written(&g, &folder);
    let source = GraphWeights::new(&plan);
    let again = plan::write(&plan, &source, &folder, WriteOptions::default());
    assert!(matches!(again, Err(StoreError::Exists(_))), "{again:?}");
    let replace = || WriteOptions { replace: true, ..WriteOptions::default() };
    plan::write(&plan, &source, &folder, replace()).unwrap();

    struct Nothing;
    impl WeightSource for Nothing {
        fn tensor(&self, _: &str) -> Option<Tensor> {
            None
        }
    }
    assert!(plan::write(&plan, &Nothing, &folder, replace()).is_err());
    plan::load(&folder).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn text_and_packed_integers_are_stored_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut g = Graph::new("g");
    let words: Vec<String> = (0..20).map(|i| "ä".repeat(i)).collect();
    let text = g.constant("words", Tensor::from_strings(&[20], words).unwrap());
    let packed = g.constant("nibbles", Tensor::from_ints(DType::I4, &[3, 9], &[-3; 27]).unwrap());
    let bools = g.constant("flags", Tensor::from_bools(&[17], &[true; 17]).unwrap());
    for (name, v) in [("a", text), ("b", packed), ("c", bools)] {
        g.output(name, v);
    }
    let plan = written(&g, &dir.path().join("p"));
    let loaded = plan::load(&dir.path().join("p")).unwrap();
    let source = GraphWeights::new(&plan);
    for key in ["words", "nibbles", "flags"] {
        assert_eq!(loaded.weights.get(key), source.tensor(key).as_ref());
    }
    loaded.weights.verify(&loaded.plan).unwrap();
}

#[test]
fn a_linked_weight_stays_in_the_models_file() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("net.plan");
    let model = dir.path().join("model.onnx");
    let g = with_data(&transformer(1));
    let mut plan = plan_of(&g);
    let bytes = GraphWeights::new(&plan).tensor("table").unwrap().bytes().to_vec();
    fs::write(&model, [b"junk".to_vec(), bytes.clone()].concat()).unwrap();
    let info: &mut WeightInfo = plan.weights.get_mut("table").unwrap();
    info.source = Source::Linked { path: model.clone(), offset: 4, len: bytes.len() as u64 };
    let plan = check(plan).unwrap();
    plan::write(&plan, &GraphWeights::new(&plan), &folder, WriteOptions::default()).unwrap();
    let loaded = plan::load(&folder).unwrap();
    assert_eq!(loaded.weights.get("table").unwrap().bytes(), bytes);
    loaded.weights.verify(&loaded.plan).unwrap();
    fs::write(&model, b"short").unwrap();
    let error = plan::load(&folder).unwrap_err().to_string();
    assert!(error.contains("`table`"), "{error}");
}

#[test]
fn a_changed_byte_of_a_weight_is_found_by_verify() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("net.plan");
    written(&with_data(&transformer(1)), &folder);
    let path = folder.join("weights.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let loaded = plan::load(&folder).unwrap();
    assert!(matches!(loaded.weights.verify(&loaded.plan), Err(StoreError::Weight { .. })));
    fs::write(&path, &bytes[..bytes.len() - 8]).unwrap();
    let error = plan::load(&folder).unwrap_err().to_string();
    assert!(error.starts_with("weights.safetensors: header"), "{error}");
}

/// Signs plan.yaml again, as somebody would who edits it and knows how.
fn sign(text: &str, graphs: &[u8]) -> String {
    let body = text.rsplit_once("\ndigest: ").map_or(text, |(body, _)| body);
    let lines = body.lines().map(|line| match line.starts_with("graph: ") {
        true => format!("graph: {}\n", Hash::of(graphs)),
        false => format!("{line}\n"),
    });
    let body: String = lines.collect();
    format!("{body}digest: {}\n", Hash::of(body.as_bytes()))
}

#[test]
fn a_thousand_mutated_plans_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("net.plan");
    written(&with_data(&transformer(1)), &folder);
    let files = ["plan.yaml", "graph.ir", "weights.safetensors"];
    let original: Vec<Vec<u8>> = files.iter().map(|f| fs::read(folder.join(f)).unwrap()).collect();
    let good = plan::load(&folder).unwrap().plan.into_plan();
    let mut state = 1u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let (mut refused, mut same, mut harmless) = (0, 0, 0);
    for round in 0..1500 {
        let mut now = original.clone();
        let which = [0, 0, 0, 0, 1, 1, 2][next(7)];
        for _ in 0..1 + next(3) {
            let bytes = &mut now[which];
            // Of the weight file only the header matters here.
            let at = next(bytes.len().min(6000));
            match next(6) {
                0 => drop(bytes.remove(at)),
                1 => bytes.truncate(at.max(1)),
                2 => bytes.insert(at, b"0123456789[]{}%-> \n\":,bs_"[next(25)]),
                3 => bytes[at] = next(256) as u8,
                4 => bytes[at] = b'0' + next(10) as u8,
                _ => {
                    let other = next(bytes.len().min(6000));
                    bytes.swap(at, other);
                }
            }
        }
        if round % 3 != 0 && which < 2 {
            let text = String::from_utf8_lossy(&now[0]).into_owned();
            now[0] = sign(&text, &now[1]).into_bytes();
        }
        files.iter().zip(&now).for_each(|(f, bytes)| fs::write(folder.join(f), bytes).unwrap());
        match plan::load(&folder) {
            Err(e) => {
                assert!(!e.to_string().is_empty());
                refused += 1;
            }
            Ok(loaded) if *loaded.plan == good => same += 1,
            // A longer life, another order of independent steps: the checker says it is safe, so it is.
            Ok(_) => harmless += 1,
        }
    }
    println!(
        "mutated plans: {refused} refused, {same} unchanged in meaning, {harmless} changed and proven safe, 0 panics"
    );
    assert!(refused > 1000);
}

#[test]
fn thousands_of_steps_load_fast() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("net.plan");
    let g = with_data(&transformer(130));
    let start = Instant::now();
    let plan = plan_of(&g);
    let planned = start.elapsed();
    let start = Instant::now();
    let plan = check(plan).unwrap_or_else(|f| panic!("{}", f[0]));
    let proven = start.elapsed();
    plan::write(&plan, &GraphWeights::new(&plan), &folder, WriteOptions::default()).unwrap();
    let start = Instant::now();
    plan::load(&folder).unwrap();
    let loaded = start.elapsed();
    let mut offsets = plan::Offsets::default();
    let arena = plan::Arena::new(&plan.entries[0]);
    let start = Instant::now();
    arena.layout(&|_| Some(17), &mut offsets).unwrap();
    let laid_out = start.elapsed();
    let steps = plan.entries[0].steps.len();
    println!(
        "{steps} steps, {} buffers: planned in {planned:?}, proven in {proven:?}, loaded in {loaded:?}, laid out in {laid_out:?}",
        plan.entries[0].buffers.len(),
    );
    assert!(loaded.as_secs() < 5);
}
