//! Runs plans through traits: sessions, text, sampling.

pub mod text;
