//! Code objects for a plan to carry: the kernels that it needs on an architecture, compiled now.
//!
//! ```text
//! compile --target gfx1151,gfx1100    kernels/gfx1151/linear.hsaco, kernels/gfx1100/linear.hsaco, ...
//! ```

use crate::compile::Progress;
use backend_hip::{CodeStore, Compiler, Planner, kernel_files};
use ir::Verified;
use plan::{CheckedPlan, CodeObject};
use std::path::Path;

/// What a plan carries for an architecture.
#[derive(Clone, Debug)]
pub struct Carried {
    /// The architecture: `gfx1151`.
    pub arch: String,
    /// How many code objects, and how many bytes they have.
    pub files: usize,
    /// Bytes of them all.
    pub bytes: u64,
    /// The compiler; or why there are none, so that kernels are compiled where the plan is first loaded.
    pub compiler: Result<String, String>,
}

/// Compiles the kernels that a plan of these entries needs on an architecture. `folder` keeps what is compiled.
pub(crate) fn code_for(
    arch: &str,
    plan: &CheckedPlan,
    entries: &[(&str, Verified<'_>)],
    folder: Option<&Path>,
    progress: &mut dyn Progress,
) -> (Carried, Vec<CodeObject>) {
    let none = |why: String| (Carried { arch: arch.into(), files: 0, bytes: 0, compiler: Err(why) }, vec![]);
    let files = match &plan.target {
        target if target == arch => kernel_files(plan).map_err(|e| e.to_string()),
        _ => plan::build_entries(entries, &Planner::new(arch), &plan.model_hash)
            .map_err(|e| e.to_string())
            .and_then(|made| plan::check(made).map_err(|found| found[0].to_string()))
            .and_then(|checked| kernel_files(&checked).map_err(|e| e.to_string())),
    };
    let (files, compiler) = match (files, Compiler::for_arch(arch)) {
        (Ok(files), Ok(compiler)) => (files, compiler),
        (Err(why), _) => return none(why),
        (_, Err(e)) => return none(e.to_string()),
    };
    let Some(store) = folder.map(CodeStore::new) else {
        return none("there is no folder to keep code objects in".into());
    };
    let mut objects = vec![];
    for file in files {
        progress.stage(&format!("kernels of {file} for {arch}"));
        match store.of_file(&compiler, file, arch) {
            Ok(object) => objects.push(object),
            // Some without the others would still need a compiler there.
            Err(e) => return none(e.to_string()),
        }
    }
    let bytes = objects.iter().map(|o| o.info.bytes).sum();
    (Carried { arch: arch.into(), files: objects.len(), bytes, compiler: Ok(compiler.version()) }, objects)
}
