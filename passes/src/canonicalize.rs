//! Brings equal computations into one form, so that later passes look for one form only.
//!
//! Operators that change nothing go, a product with a constant matrix becomes `linear`, and functions that exporters spell out
//! (`x * sigmoid(x)`) get their name. Nothing is rewritten that would round more, or make a result infinite that was not.
//! The rules are in `identities`, `views`, `linears`, `embeddings` and `activations`.
//!
//! ```ir before
//! graph @mlp(%x: f32[T, 64], %s: f32[T, 32]) {
//!   %w = weight : f32[64, 32]
//!   %b = weight : f32[32]
//!   %xw = matmul(%x, %w) : f32[T, 32]
//!   %h = add(%b, %xw) : f32[T, 32]
//!   %g = sigmoid(%h) : f32[T, 32]
//!   %act = mul(%h, %g) : f32[T, 32]
//!   %same = reshape(%act) {shape = [T, 32]} : f32[T, 32]
//!   %y = mul(%same, %s) : f32[T, 32]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @mlp(%x: f32[T, 64], %s: f32[T, 32]) {
//!   %w = weight : f32[64, 32]
//!   %b = weight : f32[32]
//!   %h = linear(%x, %w, %b) {kn = true} : f32[T, 32]
//!   %act = silu(%h) : f32[T, 32]
//!   %y = mul(%act, %s) : f32[T, 32]
//!   return %y
//! }
//! ```

mod activations;
mod embeddings;
mod identities;
mod linears;
mod views;

pub(crate) use views::{transpose_nothing, transpose_transpose};

use crate::edit::Edit;
use crate::pass::{Body, Miss, Pass};
use ir::graph::Value;
use ir::ops::{Binary, Unary};
use ir::scalar::{BinaryFn, UnaryFn};

/// See the module.
pub const PASS: Pass = Pass {
    name: "canonicalize",
    body: Body::Rules(&[identities::RULES, views::RULES, linears::RULES, embeddings::RULES, activations::RULES]),
};

fn unary(edit: &mut Edit<'_>, f: UnaryFn, x: Value) -> Result<Value, Miss> {
    edit.apply(Unary { f }, &[x])
}

fn binary(edit: &mut Edit<'_>, f: BinaryFn, a: Value, b: Value) -> Result<Value, Miss> {
    edit.apply(Binary { f }, &[a, b])
}

/// Rules about functions of real numbers do not hold for integers.
fn is_float(edit: &Edit<'_>, v: Value) -> Result<(), Miss> {
    if edit.dtype(v).is_some_and(|d| d.is_float()) { Ok(()) } else { Err(Miss::NoEffect) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check_doc_example;

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("canonicalize.rs"));
    }
}
