//! Runs plans through traits: sessions, text, sampling.
