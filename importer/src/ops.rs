//! The handlers: which function imports which ONNX operator. Each file in `ops/` has a table; a line here adds the file.
//!
//! A handler looks at [`NodeCx::opset`](crate::node::NodeCx::opset) where versions of an operator differ.

mod cast;
mod constant;
mod contrib;
mod contrib_attention;
mod contrib_fused;
mod contrib_packed;
mod data_cut;
mod data_fill;
mod data_order;
mod data_random;
mod einsum;
mod elementwise_binary;
mod elementwise_unary;
mod host_control;
mod index_gather;
mod index_select;
mod loss;
mod matmul;
mod ml_categories;
mod ml_linear;
mod ml_maps;
mod ml_scale;
mod ml_svm;
mod ml_trees;
mod nn_activation;
mod nn_attention;
mod nn_cache;
mod nn_conv;
mod nn_linear_attention;
mod nn_norm;
mod nn_pool;
mod nn_recurrent;
mod nn_resize;
mod nn_sample;
mod nn_shuffle;
mod nn_spectral;
mod quant;
mod reduce;
mod sequence_lists;
mod shape_arrange;
mod shape_reshape;
mod shape_size;
mod softmax;
mod string_text;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::node::Handler;

/// The operators of one file: domain (empty for ONNX's own), operator, handler.
pub(crate) type Table = &'static [(&'static str, &'static str, Handler)];

// One line per file, so that lines can be added side by side.
#[rustfmt::skip]
const TABLES: &[Table] = &[
    cast::TABLE,
    constant::TABLE,
    contrib::TABLE,
    contrib_attention::TABLE,
    contrib_fused::TABLE,
    contrib_packed::TABLE,
    data_cut::TABLE,
    data_fill::TABLE,
    data_order::TABLE,
    data_random::TABLE,
    einsum::TABLE,
    elementwise_binary::TABLE,
    elementwise_unary::TABLE,
    host_control::TABLE,
    index_gather::TABLE,
    index_select::TABLE,
    loss::TABLE,
    matmul::TABLE,
    ml_categories::TABLE,
    ml_linear::TABLE,
    ml_maps::TABLE,
    ml_scale::TABLE,
    ml_svm::TABLE,
    ml_trees::TABLE,
    nn_activation::TABLE,
    nn_attention::TABLE,
    nn_cache::TABLE,
    nn_conv::TABLE,
    nn_linear_attention::TABLE,
    nn_norm::TABLE,
    nn_pool::TABLE,
    nn_recurrent::TABLE,
    nn_resize::TABLE,
    nn_sample::TABLE,
    nn_shuffle::TABLE,
    nn_spectral::TABLE,
    quant::TABLE,
    reduce::TABLE,
    sequence_lists::TABLE,
    shape_arrange::TABLE,
    shape_reshape::TABLE,
    shape_size::TABLE,
    softmax::TABLE,
    string_text::TABLE,
];

static HANDLERS: LazyLock<HashMap<(&'static str, &'static str), Handler>> = LazyLock::new(|| {
    let all = TABLES.iter().copied().flatten();
    all.map(|(domain, op_type, handler)| ((*domain, *op_type), *handler)).collect()
});

/// The handler of an operator; `domain` is empty for ONNX's own.
pub(crate) fn handler(domain: &str, op_type: &str) -> Option<Handler> {
    HANDLERS.get(&(domain, op_type)).copied()
}

/// Every operator that can be imported: its domain (empty for ONNX's own) and its name, in that order.
pub fn operators() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> = HANDLERS.keys().copied().collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_is_registered_once() {
        let entries: usize = TABLES.iter().map(|t| t.len()).sum();
        assert_eq!(entries, HANDLERS.len());
    }
}
