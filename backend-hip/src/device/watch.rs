//! What the simulator is told of a launch so that it can hold every access against it, and what it saw.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// Memory that a launch declares, and how far it was touched. The layout is that of `Extent` in simulator.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Extent {
    start: u64,
    end: u64,
    write: u64,
    /// The end of what was touched.
    touched: u64,
}

impl Extent {
    /// `bytes` bytes at an address.
    pub(crate) fn new(start: u64, bytes: u64, write: bool) -> Extent {
        Extent { start, end: start.saturating_add(bytes), write: u64::from(write), touched: 0 }
    }
}

/// The extents of a launch, as a driver's `extra` carries them to the simulator.
pub(super) struct Told(Vec<Extent>);

impl Told {
    pub(super) fn new(extents: &[Extent]) -> Told {
        Told(extents.to_vec())
    }

    pub(super) fn extents(&self) -> &[Extent] {
        &self.0
    }

    pub(super) fn extents_mut(&mut self) -> &mut [Extent] {
        &mut self.0
    }
}

/// What was seen of one memory parameter of a kernel, over all launches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Launches whose extent holds anything.
    pub launches: u64,
    /// Launches that touched its last byte: no smaller extent would have been true.
    pub whole: u64,
}

/// What a watched device has seen: by kernel and by the parameter's place among those that are memory.
#[derive(Debug, Default)]
pub(crate) struct Watch(Mutex<BTreeMap<(String, usize), Touched>>);

impl Watch {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<(String, usize), Touched>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds what a launch touched.
    pub(super) fn note(&self, kernel: &str, extents: &[Extent]) {
        let mut seen = self.seen();
        for (i, extent) in extents.iter().enumerate().filter(|(_, e)| e.end > e.start) {
            let touched = seen.entry((kernel.to_string(), i)).or_default();
            touched.launches += 1;
            touched.whole += u64::from(extent.touched == extent.end);
        }
    }

    pub(super) fn touched(&self) -> BTreeMap<(String, usize), Touched> {
        self.seen().clone()
    }
}

#[cfg(test)]
mod tests {
    use crate::code::{CodeStore, CodeWatch, Modules};
    use crate::compiler::Compiler;
    use crate::device::{Device, DeviceMemory, Parameters, Queue};
    use kernels::table;

    /// `y = g * u` of 300 elements, with the extents of g, u and y that the launch declares; gives what it says.
    fn gate(device: &Device, modules: &Modules, declared: [(u64, bool); 3]) -> Result<(), String> {
        let kernel = table::ALL.iter().find(|k| k.name == "gate_f32").expect("the manifest has it");
        let queue = Queue::new(device).unwrap();
        let memory = [0, 1, 2].map(|_| DeviceMemory::new(device, 1200).unwrap());
        memory.iter().for_each(|m| m.fill(0, &queue).unwrap());
        let mut parameters = Parameters::default();
        let [g, u, y] = [0, 1, 2].map(|i| (memory[i].address(), declared[i]));
        for (address, (bytes, write)) in [g, u, (u.0, (0, false)), y] {
            parameters.push_memory(address, bytes, write);
        }
        [300, 0, 5, u64::from(1f32.to_bits())].into_iter().for_each(|n| parameters.push(n));
        let function = modules.function(kernel).unwrap();
        queue.launch(&function, [2, 1, 1], kernel.block, &parameters).map_err(|e| e.to_string())
    }

    #[test]
    fn an_access_outside_of_what_is_declared_is_an_error() {
        if Compiler::watched().is_err() {
            println!("skipped: no clang is here to watch accesses");
            return;
        }
        let device = Device::watched().unwrap();
        let folder = std::env::temp_dir().join(format!("fastinference-watched-{}", std::process::id()));
        let modules = Modules::new(&device, CodeStore::new(&folder), CodeWatch::default());
        assert_eq!(gate(&device, &modules, [(1200, false), (1200, false), (1200, true)]), Ok(()));
        for wrong in [
            [(1199, false), (1200, false), (1200, true)],
            [(1200, false), (4, false), (1200, true)],
            [(1200, false), (1200, false), (1196, true)],
            [(1200, false), (1200, false), (1200, false)],
        ] {
            let said = gate(&device, &modules, wrong).unwrap_err();
            assert!(said.contains("outside of the extents"), "{said}");
        }
        let seen = device.touched();
        let whole: Vec<u64> = seen.values().map(|t| t.whole).collect();
        assert_eq!((seen.len(), whole), (3, vec![1, 1, 1]), "only the launch that succeeded counts");
        let _ = std::fs::remove_dir_all(folder);
    }
}
