//! What a model means: graph, operators, types, symbolic dimensions, text form, verifier and reference evaluator.
pub mod dim;
