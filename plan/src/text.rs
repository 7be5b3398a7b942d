//! Places, steps, buffers, ports and weights as one line of text each: what people see and what plan.yaml holds.
//!
//! ```text
//! b3[64*S]                                           a place, from a byte on
//! %y = linear(in0, %w, b2) -> b4 scratch b5 free s1  a launch
//! copy %x b1 -> b2 on 1                              between memories, on stream 1
//! sync 1 -> 0                                        stream 0 waits for stream 1
//! pace 1 -> 0 "chunks of 32 rows"
//! b4 [256*B] life 3..9 after b1 b2                   a buffer
//! in0 %x f32[B, 4]                                   a port
//! %w panel16 own - f32[64, 64]                       a weight; - where there is no hash yet
//! ```

use crate::model::{Loc, Place};
use ir::text::quoted_name;
use std::fmt;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Input(i) => write!(f, "in{i}"),
            Place::Output(i) => write!(f, "out{i}"),
            Place::Weight(key) => write!(f, "%{}", quoted_name(key)),
            Place::Buffer(id) => write!(f, "b{}", id.0),
            Place::Slot(id) => write!(f, "s{}", id.0),
            Place::None => f.write_str("_"),
        }
    }
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)?;
        if self.offset.as_const() == Some(0) {
            return Ok(());
        }
        write!(f, "[{}]", self.offset)
    }
}
