//! What tests that span rooms share: small models written field by field, mutants of bytes, text and messages, and an
//! allocator that counts.

pub mod counting_allocator;
pub mod message;
pub mod models;
pub mod random;
pub mod watch;
