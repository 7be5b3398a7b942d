//! Graph to graph rewrites: one file per pass, and the pipeline that runs them.
//!
//! A [`Pass`] is a list of [`Rule`]s (a pattern in the IR's own text and a rewrite) or a function over the whole graph.
//! [`pipeline::standard`] is the order of a compilation; [`Driver`] runs it, verifies after every pass, removes dead nodes
//! and can prove each pass by evaluating the graph before and after.

mod advice;
pub mod audit;
mod axes;
pub mod batch_kv_writes;
pub mod canonicalize;
mod driver;
mod edit;
pub mod fold_constants;
pub mod fold_shapes;
pub mod fuse_attention;
pub mod fuse_elementwise;
pub mod fuse_epilogues;
pub mod fuse_moe_gemm;
pub mod fuse_norm;
pub mod fuse_rope;
pub mod group_linears;
pub mod inline_branches;
pub mod join_experts;
pub mod join_ropes;
pub mod join_routers;
pub mod keep_heads_inside;
pub mod lower_group_query_attention;
pub mod lower_tensor_scatter;
pub mod make_kv_stateful;
pub mod merge_duplicates;
pub mod narrow_floats;
mod pass;
mod pattern;
pub mod pipeline;
pub mod sink_transposes;
#[cfg(test)]
mod testing;

pub use advice::advice;
pub use driver::{Driver, PassError, Report, Stage};
pub use edit::Edit;
pub use pass::{Body, Context, Entry, Miss, Pass, Rule};
pub use pattern::Match;
