//! What compiled models hold: one attention per layer, one cache write per layer of a step, nothing left of routing, and experts
//! that only `moe_gemm` reads. The numbers are those of docs/moe_forms.md and docs/kv_forms.md.

use fastinference::plan::{Entry, Place, Step};
use fastinference::{CompileOptions, Model};
use ir::graph::{Graph, NodeId, Value};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a file should come to: layers that attend, layers with experts, and whether it has a step.
struct Expected {
    name: &'static str,
    attention: usize,
    experts: usize,
    step: bool,
    /// Only the experts that the example chose are in the file: what routes to them stays.
    frozen: bool,
}

const fn model(name: &'static str, attention: usize, experts: usize, step: bool) -> Expected {
    Expected { name, attention, experts, step, frozen: false }
}

const MODELS: &[Expected] = &[
    model("shakespeare-moe", 4, 4, true),
    model("a_optimum", 30, 0, true),
    model("b_genai", 30, 0, true),
    model("b4_genai_int4", 30, 0, true),
    model("b4z_genai_int4", 30, 0, true),
    model("c_opset23", 30, 0, true),
    model("c2_opset24_static", 30, 0, true),
    model("bert-dyn18", 2, 0, false),
    model("llama-dyn18", 2, 0, true),
    model("llama-dyn18_noopt", 2, 0, true),
    model("llama-dyn23", 2, 0, true),
    model("llama-hf_decode_multi_op18", 2, 0, true),
    model("llama-hf_prefill_op18", 2, 0, false),
    model("llama-ts17", 2, 0, true),
    model("llama-ts17_eattn", 2, 0, true),
    model("mixtral_classic-dyn18", 2, 2, true),
    model("mixtral_classic-ts17", 2, 2, true),
    model("mixtral_dense-dyn18", 2, 2, true),
    model("qwen2_moe-dyn18_batched", 2, 2, true),
    model("qwen2_moe-dyn18_batched_f16", 2, 2, true),
    model("qwen2_moe-dyn23_batched", 2, 2, true),
    model("qwen2_moe-hf_decode_multi_grouped_op18", 2, 2, true),
    model("qwen2_moe-hf_prefill_grouped_op18", 2, 2, false),
    model("qwen2_moe-ts17_batched", 2, 2, true),
    Expected { frozen: true, ..model("qwen2_moe-ts17_eager", 2, 0, true) },
    model("vit-ts17", 2, 0, false),
    model("whisper_enc-dyn18", 2, 0, false),
    model("i_loop_unrolled_norm", 2, 2, true),
    model("i_loop_unrolled_nonorm", 2, 2, true),
    model("ii_gather_norm", 2, 2, true),
    model("ii_gather_nonorm", 2, 2, true),
    model("iv_msmoe_swiglu_norm", 2, 2, true),
    model("iv_msmoe_swiglu_nonorm", 2, 2, true),
];

fn count(graph: &Graph, op: &str) -> usize {
    graph.order().into_iter().filter(|n| graph.op(*n).is_some_and(|o| o.name() == op)).count()
}

/// Everything that is wrong with a model, in words.
fn wrong(path: &Path, expected: &Expected) -> Vec<String> {
    let model = match Model::open(path, &CompileOptions::default()) {
        Ok(model) => model,
        Err(e) => return vec![e.to_string()],
    };
    let entries = &model.plan().entries;
    let (main, step) = (&entries[0], entries.iter().find(|e| e.name == "step"));
    let mut found = vec![];
    let mut check = |entry: &Entry, op: &str, wanted: usize| {
        let n = count(&entry.graph, op);
        if n != wanted {
            found.push(format!("{}: {n} {op}, expected {wanted}", entry.name));
        }
    };
    let layers = [("moe_route", 1), ("expert_index", 1), ("moe_gemm", 2)];
    for entry in entries.iter().filter(|e| e.name == "main" || e.name == "step") {
        layers.iter().for_each(|(op, each)| check(entry, op, each * expected.experts));
        let left =
            ["scatter_elements", "scatter_nd", "tensor_scatter", "nonzero", "group_query_attention", "loop", "scan"];
        left.into_iter().filter(|_| !expected.frozen).for_each(|op| check(entry, op, 0));
        if expected.experts > 0 {
            ["one_hot", "top_k", "slice_by", "moe", "moe_nbits"].into_iter().for_each(|op| check(entry, op, 0));
        }
    }
    check(main, "attention", expected.attention);
    if let Some(step) = step {
        check(step, "attention", 0);
        check(step, "cached_attention", expected.attention);
        check(step, "kv_write", expected.attention);
    }
    if step.is_some() != expected.step {
        found.push(format!("there is {} step", if expected.step { "no" } else { "a" }));
    }
    found.extend(entries.iter().flat_map(movements));
    found
}

/// Steps beside `moe_gemm` and `moe_gemm_nbits` that read an expert's weight, or that write as much as all pairs of token and expert are wide, between
/// the choice of the experts and the last of their products.
fn movements(entry: &Entry) -> Vec<String> {
    let graph = &entry.graph;
    let is = |id: NodeId, op: &str| graph.op(id).is_some_and(|o| o.name() == op);
    let order = graph.order();
    let is_product = |id: NodeId| is(id, "moe_gemm") || is(id, "moe_gemm_nbits");
    let products: Vec<NodeId> = order.iter().copied().filter(|id| is_product(*id)).collect();
    let launches = || entry.steps.iter().filter_map(|s| if let Step::Launch(launch) = s { Some(launch) } else { None });
    let node_of = |name: &str| order.iter().copied().find(|id| *graph.node(*id).names[0] == *name);
    let mut weights: BTreeSet<Place> = BTreeSet::new();
    for launch in launches() {
        let Some(id) = node_of(&launch.node).filter(|id| is_product(*id)) else { continue };
        let at = if is(id, "moe_gemm") { [3, 5] } else { [3, 7] };
        let stored = at.into_iter().filter_map(|i| launch.reads.get(i)).map(|loc| loc.place.clone());
        weights.extend(stored.filter(|place| *place != Place::None));
    }
    let mut found = vec![];
    for launch in launches() {
        let Some(id) = node_of(&launch.node).filter(|id| !is_product(*id)) else { continue };
        if launch.reads.iter().any(|loc| weights.contains(&loc.place)) {
            found.push(format!("{}: `{}` reads an expert's weight", entry.name, launch.node));
        }
        // Steps of a layer lie between its index and its last product.
        let chosen = |up: NodeId| is(up, "expert_index") || is(up, "moe_route");
        let behind = order.iter().any(|up| chosen(*up) && *up != id && graph.reaches(*up, id));
        let product = products.iter().find(|p| behind && graph.reaches(id, **p) && shares_index(graph, id, **p));
        let Some(limit) = product.and_then(|p| limit(graph, *p)) else { continue };
        for v in graph.results(id) {
            if elements(graph, v).is_none_or(|n| n >= limit) {
                found.push(format!("{}: `{}` writes {:?} elements", entry.name, launch.node, elements(graph, v)));
            }
        }
    }
    found
}

/// Whether a node is behind the very choice that a product's pairs come from: not one of an earlier layer.
fn shares_index(graph: &Graph, id: NodeId, product: NodeId) -> bool {
    let index = graph.operands(product)[1].node;
    let source = graph.operands(index)[0].node;
    graph.reaches(source, id) || graph.reaches(index, id)
}

/// Elements of a value where every symbol is this large.
const LARGE: i64 = 1000;

fn elements(graph: &Graph, v: Value) -> Option<i64> {
    let dims = graph.tensor_ty(v)?.dims()?;
    dims.iter().map(|d| d.eval(&|_| Some(LARGE)).ok()).product()
}

/// `T k min(H, I)` of a layer of experts: pairs times the smaller one of a row that a product reads and a row that it writes.
fn limit(graph: &Graph, product: NodeId) -> Option<i64> {
    let operands = graph.operands(product);
    let width = |v: Value| graph.tensor_ty(v)?.dims()?.last()?.as_const();
    Some(elements(graph, operands[1])? * width(operands[0])?.min(width(product.into())?))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[test]
fn the_model_in_the_repository_comes_to_what_its_page_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shakespeare-moe");
    assert_eq!(wrong(&path, &MODELS[0]), Vec::<String>::new());
}

/// Movements in the plan of a layer of experts, with another statement in it.
fn moved(more: &str, result: &str) -> Vec<String> {
    let text = format!(
        "graph @main(%x: f32[T, 20], %l: f32[T, 4]) {{
          %up = weight : f32[4, 32, 20]
          %down = weight : f32[4, 20, 16]
          %ids, %ws = moe_route(%l) {{eps = 0.0, k = 2, renormalise = false, scale = 1.0, score = softmax}}
          %r, %o = expert_index(%ids) {{experts = 4}}
          {more}
          %h = moe_gemm(%x, %r, %o, %up) {{repeat = 2, gating = halves, act = silu}}
          %y = moe_gemm(%h, %r, %o, %down, _, _, _, %ws) {{repeat = 1, gating = none}}
          return %y, {result} }}"
    );
    let graph = ir::text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let plan = plan::build(ir::verify(&graph).unwrap(), &backend_cpu::Cpu, "").unwrap();
    movements(&plan.entries[0])
}

#[test]
fn steps_that_move_what_experts_need_are_found() {
    assert_eq!(moved("%z = neg(%l)", "%z"), Vec::<String>::new());
    assert_eq!(moved("%z = neg(%up)", "%z"), ["main: `z` reads an expert's weight"]);
    let permuted = "%xx = concat(%x, %x) {axis = 0} %p = gather(%xx, %r) {axis = 0} %h2 = moe_gemm(%p, %r, %o, %up) {repeat = 1, gating = halves, act = silu}";
    assert_eq!(moved(permuted, "%h2"), ["main: `p` writes Some(40000) elements"]);
}

/// Large models: FASTINFERENCE_MODELS names folders of models, or models, separated by `:`.
#[test]
#[ignore = "needs models that are not in the repository: set FASTINFERENCE_MODELS"]
fn other_models_come_to_what_their_pages_say() {
    let list = std::env::var("FASTINFERENCE_MODELS").expect("FASTINFERENCE_MODELS names models");
    let mut paths: Vec<PathBuf> = vec![];
    for path in list.split(':').map(PathBuf::from) {
        match path.join("model.onnx").is_file() {
            true => paths.push(path),
            false => paths.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir())),
        }
    }
    paths.sort();
    let mut found = vec![];
    for path in &paths {
        let name = name(path);
        let expected = MODELS.iter().find(|m| m.name == name);
        let expected = expected.unwrap_or_else(|| panic!("no line of `MODELS` says what {name} comes to"));
        let wrong = wrong(path, expected);
        println!("{name}: {}", if wrong.is_empty() { "as it should be".into() } else { wrong.join("; ") });
        found.extend(wrong.into_iter().map(|what| format!("{name}: {what}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
