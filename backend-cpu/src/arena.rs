//! Working memory of a session: regions that are cut into the disjoint slices one step reads and writes.
#![allow(unsafe_code, reason = "hands out several slices of one allocation after proving them disjoint")]

use ir::tensor::{Aligned, Memory, TensorError};
use smallvec::SmallVec;
use std::sync::Arc;

/// A range of a region and what a step does with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) region: usize,
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) write: bool,
}

impl Part {
    fn overlaps(&self, other: &Part) -> bool {
        let (a, b) = (self.start..self.start + self.len, other.start..other.start + other.len);
        self.region == other.region && self.len > 0 && other.len > 0 && a.start < b.end && b.start < a.end
    }
}

/// A slice of a region.
pub(crate) enum Slice<'a> {
    Read(&'a [u8]),
    Write(&'a mut [u8]),
}

/// The arena (region 0), one region per output, and one per state.
pub(crate) struct Regions {
    memory: Vec<Arc<Aligned>>,
    /// Which regions are the caller's memory; these are never replaced.
    bound: Vec<bool>,
}

impl Regions {
    pub(crate) fn new(count: usize) -> Regions {
        Regions { memory: (0..count).map(|_| Arc::new(Aligned::zeroed(0))).collect(), bound: vec![false; count] }
    }

    /// Makes the caller's memory a region.
    pub(crate) fn bind(&mut self, region: usize, memory: Aligned) {
        self.memory[region] = Arc::new(memory);
        self.bound[region] = true;
    }

    /// Gives the caller's memory back, unless somebody still sees it.
    pub(crate) fn unbind(&mut self, region: usize) -> Option<Aligned> {
        if !self.bound[region] || Arc::get_mut(&mut self.memory[region]).is_none() {
            return None;
        }
        self.bound[region] = false;
        let memory = std::mem::replace(&mut self.memory[region], Arc::new(Aligned::zeroed(0)));
        Arc::try_unwrap(memory).ok()
    }

    /// Whether `len` bytes can be written to a region; the caller's memory must have room, and no result must lie in it.
    pub(crate) fn check(&mut self, region: usize, len: usize) -> Result<(), String> {
        let memory = &mut self.memory[region];
        if !self.bound[region] {
            return Ok(());
        }
        let Some(memory) = Arc::get_mut(memory) else {
            return Err("a result in the memory bound to it is still in use".into());
        };
        let room = memory.bytes().len();
        if room < len { Err(format!("it takes {len} bytes, the memory bound to it has {room}")) } else { Ok(()) }
    }

    /// Makes a region hold at least `len` bytes that nobody else sees. Contents are lost when it grows or was shared. Fails where
    /// memory for them is refused.
    pub(crate) fn reserve(&mut self, region: usize, len: usize) -> Result<(), TensorError> {
        let memory = &mut self.memory[region];
        let reusable = Arc::get_mut(memory).is_some() && memory.bytes().len() >= len;
        if !reusable {
            *memory = Arc::new(Aligned::try_zeroed(len)?);
        }
        Ok(())
    }

    /// How many regions there are.
    pub(crate) fn count(&self) -> usize {
        self.memory.len()
    }

    /// Gives a region other memory; returns what it had.
    pub(crate) fn replace(&mut self, region: usize, memory: Aligned) -> Arc<Aligned> {
        std::mem::replace(&mut self.memory[region], Arc::new(memory))
    }

    /// The memory of a region, to be shared with a tensor.
    pub(crate) fn share(&self, region: usize) -> Arc<Aligned> {
        self.memory[region].clone()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.memory.iter().map(|m| m.bytes().len()).sum()
    }

    /// One slice per part. Panics when a written part overlaps another or a part leaves its region: a checked plan has
    /// neither.
    pub(crate) fn split(&mut self, parts: &[Part]) -> SmallVec<[Slice<'_>; 12]> {
        for (i, a) in parts.iter().enumerate() {
            let clash = parts[i + 1..].iter().find(|b| (a.write || b.write) && a.overlaps(b));
            assert!(clash.is_none(), "a step's write overlaps another of its operands: {a:?} and {clash:?}");
        }
        let cut = |part: &Part| {
            let memory = Arc::get_mut(&mut self.memory[part.region]).expect("regions are not shared while a plan runs");
            let bytes = &mut memory.bytes_mut()[part.start..part.start + part.len];
            let (start, len) = (bytes.as_mut_ptr(), bytes.len());
            match part.write {
                // SAFETY: the range was bounds-checked just above; no other part that is alive overlaps it (asserted), the
                // region is not shared (`get_mut`) and stays borrowed by `self` for the slices' lifetime.
                true => Slice::Write(unsafe { std::slice::from_raw_parts_mut(start, len) }),
                // SAFETY: as above; reads may overlap reads.
                false => Slice::Read(unsafe { std::slice::from_raw_parts(start, len) }),
            }
        };
        parts.iter().map(cut).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: usize, len: usize, write: bool) -> Part {
        Part { region: 0, start, len, write }
    }

    #[test]
    fn reads_may_overlap_and_writes_are_seen_later() {
        let mut r = Regions::new(1);
        r.reserve(0, 64).unwrap();
        for slice in r.split(&[part(0, 8, true), part(8, 8, false), part(8, 4, false)]) {
            if let Slice::Write(w) = slice {
                w.fill(7);
            }
        }
        let Slice::Read(x) = &r.split(&[part(4, 8, false)])[0] else { panic!("a read part") };
        assert_eq!(x, &[7, 7, 7, 7, 0, 0, 0, 0]);
    }

    #[test]
    #[should_panic(expected = "overlaps")]
    fn a_write_over_a_read_is_refused() {
        let mut r = Regions::new(1);
        r.reserve(0, 64).unwrap();
        r.split(&[part(0, 8, false), part(4, 8, true)]);
    }

    #[test]
    fn a_shared_region_is_replaced_not_overwritten() {
        let mut r = Regions::new(1);
        r.reserve(0, 64).unwrap();
        let kept = r.share(0);
        r.reserve(0, 64).unwrap();
        for slice in r.split(&[part(0, 64, true)]) {
            if let Slice::Write(w) = slice {
                w.fill(1);
            }
        }
        assert_eq!(kept.bytes()[0], 0);
    }
}
