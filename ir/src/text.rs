//! The text form of a graph: printed for people and plans, parsed by tests, patterns and plans.
//!
//! ```text
//! graph @moe(%x: f16[T, 2048], %ids: i32[T, 4]) {
//!   %up = weight : f16[60, 1408, 2048]
//!   %axes = const [0] : i64[1]
//!   %w = gather(%up, %ids) {axis = 0} : f16[T, 4, 1408, 2048]   // a comment
//!   return %w as "gathered"
//! }
//! ```
//! Names of letters, digits and `_ . / : - $ #` stand bare, others are quoted: `%"a b"`. Printing and parsing round-trip,
//! but for the data of large weights, which the text does not hold.

mod cursor;
mod parse;
mod print;

pub use parse::{ParseError, parse};
pub use print::{is_inline, node_line, quoted_name};

/// One statement of a pattern: results, operator, operands and attributes, all by name.
pub use parse::{Stmt, parse_stmts};
