//! The constants of all entries while they are planned: keys, readers, wished layouts.

use crate::layout::Layout;
use crate::model::{Source, WeightInfo};
use ir::{Graph, Tensor, TensorType, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The constants of all entries while they are planned.
#[derive(Default)]
pub(super) struct WeightTable {
    pub(super) found: BTreeMap<Arc<str>, PendingWeight>,
}

pub(super) struct PendingWeight {
    ty: TensorType,
    data: Option<Tensor>,
    reads: usize,
    pub(super) wishes: Vec<Layout>,
}

impl WeightTable {
    /// The key of a constant: its name, or its path where a constant of another entry has that name.
    pub(super) fn key(&mut self, entry: &str, graph: &Graph, v: Value, data: Option<&Tensor>) -> Arc<str> {
        let name = graph.name(v).clone();
        if data.is_some_and(ir::text::is_inline) {
            return name;
        }
        let ty = graph.tensor_ty(v).expect("a weight is a tensor").clone();
        let path: Arc<str> = weight_path(entry, &name).into();
        for key in [name, path.clone()] {
            match self.found.get(&key) {
                Some(known) if known.ty == ty && same_data(known.data.as_ref(), data) => return key,
                Some(_) => {}
                None => {
                    let data = data.cloned();
                    self.found.insert(key.clone(), PendingWeight { ty, data, reads: 0, wishes: vec![] });
                    return key;
                }
            }
        }
        path
    }

    pub(super) fn read(&mut self, key: &str) {
        if let Some(weight) = self.found.get_mut(key) {
            weight.reads += 1;
        }
    }

    pub(super) fn finish(self) -> BTreeMap<Arc<str>, WeightInfo> {
        let info = |w: PendingWeight| {
            let dims = w.ty.shape.as_const().unwrap_or_default();
            let wish = w.wishes.first().copied().unwrap_or(Layout::RowMajor);
            let agreed = w.wishes.len() == w.reads && w.wishes.iter().all(|l| *l == wish);
            let granted = agreed && wish.bytes(w.ty.dtype, &dims).is_some();
            let layout = if granted { wish } else { Layout::RowMajor };
            WeightInfo { dtype: w.ty.dtype, dims, layout, source: Source::Own, hash: None }
        };
        self.found.into_iter().map(|(key, w)| (key, info(w))).collect()
    }
}

/// The key of a constant whose name another entry uses for something else.
pub(crate) fn weight_path(entry: &str, name: &str) -> String {
    format!("{entry}/{name}")
}

/// Constants of one name are one weight only if they hold the same bytes.
fn same_data(a: Option<&Tensor>, b: Option<&Tensor>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.bytes().as_ptr() == b.bytes().as_ptr() && a.dims() == b.dims() || a == b,
        (None, None) => true,
        _ => false,
    }
}
