//! The commands, one per file.

pub mod bench;
pub mod compile;
pub mod conformance;
pub mod demo;
pub mod doctor;
pub mod generate;
pub mod inspect;
pub mod run;
pub mod verify;
pub mod worker;
