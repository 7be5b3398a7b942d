//! docs/ops.md: which ONNX operators are imported, what they become, and where they run.
//!
//! The page is made from the importer's table, the operator tables, `cases/versions.tsv` (see `cases/make_versions.py`) and
//! `cases/measured.tsv`: what one-node cases that pass have shown. `cargo xtask ops FOLDER...` measures again, over
//! `tests/cases` and the folders named; `cargo xtask bless` only writes the page again. Both are stale when a line is missing.

use fastinference::cases::{self, Allowed};
use fastinference::importer::{self, operators};
use fastinference::{CompileOptions, Model, ValueType};
use ir::ops::{CORE_TABLE, HOST_TABLE};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Domain and name.
type Key = (String, String);

/// What the cases of an operator have shown.
#[derive(Clone, Default, PartialEq, Debug)]
struct Measured {
    /// Operators of graphs that it becomes.
    becomes: BTreeSet<String>,
    /// Element types of the first operand in cases that pass on the reference evaluator.
    reference: BTreeSet<String>,
    /// Those that pass on the CPU.
    cpu: BTreeSet<String>,
    /// Those whose steps on the CPU all have kernels, in all of their cases or in part of them.
    kernels: BTreeSet<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace").to_path_buf()
}

fn lines(path: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|l| l.split('\t').map(str::to_string).collect()).collect()
}

fn list(cell: Option<&String>) -> BTreeSet<String> {
    cell.map(|c| c.split(',').filter(|w| !w.is_empty()).map(str::to_string).collect()).unwrap_or_default()
}

fn join(set: &BTreeSet<String>, with: &str) -> String {
    set.iter().cloned().collect::<Vec<_>>().join(with)
}

fn read_measured(path: &Path) -> BTreeMap<Key, Measured> {
    let entry = |l: Vec<String>| {
        let of = |i: usize| list(l.get(i));
        let measured = Measured { becomes: of(2), reference: of(3), cpu: of(4), kernels: of(5) };
        ((l[0].clone(), l[1].clone()), measured)
    };
    lines(path).into_iter().map(entry).collect()
}

/// The word for the type of a value: element type, or kind of value.
fn word(ty: &ValueType) -> String {
    match ty {
        ValueType::Tensor(t) => t.dtype.to_string(),
        ValueType::Sequence(of) => format!("seq<{}>", word(of)),
        ValueType::Optional(of) => format!("optional<{}>", word(of)),
        ValueType::Map { key, value } => format!("map<{key} {}>", word(value)),
        ValueType::Absent => "none".into(),
    }
}

/// Runs the case in a folder, if its model is one node; `None` where it is not.
fn measure(folder: &Path) -> Option<(Key, Measured)> {
    let bytes = fs::read(folder.join("model.onnx")).ok()?;
    let model = tract_onnx::pb::ModelProto::decode(&*bytes).ok()?.graph?;
    let [node] = &model.node[..] else { return None };
    let domain = if node.domain == "ai.onnx" { String::new() } else { node.domain.clone() };
    let key = (domain, node.op_type.clone());
    let case = cases::read(folder, Allowed { rtol: 1e-3, atol: 1e-5, equal_nan: true }).ok()?;
    let graph = importer::import(&case.model, &Default::default()).ok()?.graph;
    let types: Vec<ValueType> = graph.inputs.iter().map(|id| graph.ty((*id).into()).clone()).collect();
    let results: Vec<ValueType> = graph.outputs.iter().map(|o| graph.ty(o.value).clone()).collect();
    let set = case.sets.first().filter(|set| !case.expect_error.contains(&set.index))?;
    let inputs = set.inputs(&types.iter().collect::<Vec<_>>()).ok()?;
    let expected = set.outputs(&results.iter().collect::<Vec<_>>()).ok()?;
    let random = ["Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"];
    let passes = |found: &[fastinference::Datum]| {
        let near = |(f, e)| cases::compare(f, e, case.allowed).is_ok();
        random.contains(&&*key.1) || found.iter().zip(&expected).all(near)
    };
    let mut measured = Measured::default();
    let ty = types.first().or(results.first()).map(word)?;
    measured.becomes = graph.order().into_iter().filter_map(|id| Some(graph.op(id)?.name().to_string())).collect();
    if ir::eval::run(&graph, &inputs).is_ok_and(|found| passes(&found)) {
        measured.reference.insert(ty.clone());
    }
    let model = Model::open(&case.model, &CompileOptions::default()).ok()?;
    if model.session(1).run(&inputs).is_ok_and(passes) {
        measured.cpu.insert(ty.clone());
        if model.kernels().iter().all(|k| k.kernel != "reference") {
            measured.kernels.insert(ty);
        }
    }
    Some((key, measured))
}

fn measure_all(folders: &[PathBuf]) -> BTreeMap<Key, Measured> {
    let mut all: BTreeMap<Key, Measured> = BTreeMap::new();
    let mut slow: BTreeSet<(Key, String)> = BTreeSet::new();
    for folder in folders {
        for case in cases::find(folder).unwrap_or_else(|e| panic!("{e}")) {
            let one = std::panic::catch_unwind(|| measure(&case)).ok().flatten();
            let Some((key, new)) = one else { continue };
            // A type has kernels in part if only some of its cases have.
            slow.extend(new.cpu.difference(&new.kernels).map(|t| (key.clone(), t.clone())));
            let known = all.entry(key).or_default();
            known.becomes.extend(new.becomes);
            known.reference.extend(new.reference);
            known.cpu.extend(new.cpu);
            known.kernels.extend(new.kernels);
        }
    }
    for (key, ty) in slow {
        let kernels = &mut all.entry(key).or_default().kernels;
        if kernels.remove(&ty) {
            kernels.insert(format!("{ty} in part"));
        }
    }
    all
}

fn write_measured(path: &Path, all: &BTreeMap<Key, Measured>) {
    let mut text = String::new();
    for ((domain, name), m) in all {
        let cells = [&m.becomes, &m.reference, &m.cpu, &m.kernels].map(|set| join(set, ","));
        let _ = writeln!(text, "{domain}\t{name}\t{}", cells.join("\t"));
    }
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

const HEAD: &str = "# Operators

Made by `cargo xtask ops FOLDER...`; a test finds it stale. Types are the element types of an operator's first operand in
one-node test cases that pass: a type that is not listed may work, but nothing has shown it. *CPU* says for which of them every
step has a kernel; the rest runs the (slow) reference evaluation. Versions are those at which ONNX changed the operator; all of
them are imported. *HIP* is no everywhere: no case has been run there.

";

/// The page.
fn page(measured: &BTreeMap<Key, Measured>) -> String {
    let versions: BTreeMap<Key, String> = lines(&root().join("tests/cases/versions.tsv"))
        .into_iter()
        .map(|l| ((l[0].clone(), l[1].clone()), l[2].replace(',', ", ")))
        .collect();
    let imported: BTreeSet<Key> = operators().into_iter().map(|(d, o)| (d.to_string(), o.to_string())).collect();
    let mut text = HEAD.to_string();
    let domains: BTreeSet<&String> = imported.iter().map(|(domain, _)| domain).collect();
    for domain in domains {
        let title = if domain.is_empty() { "ai.onnx" } else { domain };
        let _ = writeln!(text, "## {title}\n");
        text.push_str(
            "| operator | versions | becomes | types, reference | CPU | HIP |\n| --- | --- | --- | --- | --- | --- |\n",
        );
        for key in imported.iter().filter(|(d, _)| d == domain) {
            let m = measured.get(key).cloned().unwrap_or_default();
            let quoted: BTreeSet<String> = m.becomes.iter().map(|op| format!("`{op}`")).collect();
            let shown = |set: &BTreeSet<String>| if set.is_empty() { "no case".into() } else { join(set, ", ") };
            let cpu = match () {
                () if m.cpu.is_empty() => "no case".into(),
                () if m.kernels == m.cpu => "kernels".into(),
                () if m.kernels.is_empty() => "reference".into(),
                () => format!("kernels: {}; else reference", join(&m.kernels, ", ")),
            };
            let since = versions.get(key).map_or("", String::as_str);
            let (becomes, types) = (join(&quoted, ", "), shown(&m.reference));
            let _ = writeln!(text, "| {} | {since} | {becomes} | {types} | {cpu} | no |", key.1);
        }
        let missing = versions.keys().filter(|k| k.0 == *domain && !imported.contains(*k));
        let missing: Vec<&str> = missing.map(|k| &*k.1).collect();
        if !missing.is_empty() {
            let why = if domain.is_empty() {
                " (those that ONNX defines as functions are imported by their bodies)"
            } else {
                ""
            };
            let _ = writeln!(text, "\nWithout an importer of their own{why}: {}.", missing.join(", "));
        }
        text.push('\n');
    }
    text.push_str("## Operators of graphs\n\nCore operators are what backends have kernels for; host operators run on the processor.\n\n");
    text.push_str("| operator | kind | what it computes |\n| --- | --- | --- |\n");
    for op in CORE_TABLE.iter().chain(HOST_TABLE) {
        let doc = op.doc.iter().map(|l| l.trim()).take_while(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
        let kind = if op.host { "host" } else { "core" };
        let _ = writeln!(text, "| `{}` | {kind} | {} |", op.name, doc.replace('|', "\\|"));
    }
    text
}

#[test]
fn the_page_of_operators_is_what_the_tables_say() {
    let (page_path, measured_path) = (root().join("docs/ops.md"), root().join("tests/cases/measured.tsv"));
    let own = root().join("tests/cases");
    let bless = std::env::var_os("BLESS").is_some();
    if let (true, Some(more)) = (bless, std::env::var_os("CASES")) {
        let folders: Vec<PathBuf> = std::iter::once(own.clone()).chain(std::env::split_paths(&more)).collect();
        write_measured(&measured_path, &measure_all(&folders));
    }
    let measured = read_measured(&measured_path);
    let text = page(&measured);
    if bless {
        fs::write(&page_path, &text).unwrap();
    }
    let found = fs::read_to_string(&page_path).unwrap_or_default();
    assert!(found == text, "docs/ops.md is stale: run `BLESS=1 cargo test -p fastinference-tests --test operators`");
    for (key, own) in measure_all(&[own]) {
        let known = measured.get(&key).cloned().unwrap_or_default();
        let holds = own.becomes.is_subset(&known.becomes)
            && own.reference.is_subset(&known.reference)
            && own.cpu.is_subset(&known.cpu);
        assert!(holds, "{key:?} is measured as {own:?}, but written as {known:?}: run `cargo xtask ops FOLDER...`");
        assert!(
            own.reference == own.cpu,
            "{key:?} passes for {:?} on the reference, {:?} on the CPU",
            own.reference,
            own.cpu
        );
    }
}
