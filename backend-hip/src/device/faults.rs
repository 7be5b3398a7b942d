//! Faults on purpose: a driver whose calls fail, hang or abort where a test says so, and that counts what was taken and given back.
//!
//! ```text
//! launch:3:700       the third launch gives status 700 and does nothing
//! alloc:1:2:on       from the first allocation of device memory on, each gives status 2
//! wait:2:hang        the second wait for a stream never returns
//! launch:1:abort     the first launch ends the process by SIGABRT, as HIP does for an illegal address
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

macro_rules! calls {
    ($($variant:ident $word:literal $name:literal,)*) => {
        /// A function of a driver.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DriverCall {
            $(#[doc = $name] $variant,)*
        }

        impl DriverCall {
            /// All of them.
            pub const ALL: &[DriverCall] = &[$(DriverCall::$variant),*];

            /// What errors call it.
            pub fn name(self) -> &'static str {
                match self {
                    $(DriverCall::$variant => $name,)*
                }
            }

            fn word(self) -> &'static str {
                match self {
                    $(DriverCall::$variant => $word,)*
                }
            }
        }
    };
}

calls! {
    Init "init" "init",
    DeviceCount "count" "device count",
    DeviceName "name" "device name",
    DeviceAttribute "attribute" "device attribute",
    DeviceProperties "properties" "device properties",
    MemoryInfo "memory" "memory info",
    Context "context" "context of a device",
    MakeCurrent "current" "choice of a device",
    Alloc "alloc" "allocation of device memory",
    Free "free" "release of device memory",
    HostAlloc "host-alloc" "allocation of pinned memory",
    HostFree "host-free" "release of pinned memory",
    ToDevice "to-device" "copy to the device",
    ToHost "to-host" "copy from the device",
    Fill "fill" "fill of device memory",
    StreamCreate "stream" "creation of a stream",
    StreamDestroy "stream-end" "end of a stream",
    Wait "wait" "wait for a stream",
    ModuleLoad "module" "load of a code object",
    ModuleUnload "module-end" "unload of a code object",
    KernelFind "kernel" "look-up of a kernel",
    Launch "launch" "launch of a kernel",
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The call does nothing and gives this status.
    Status(i32),
    /// The call never returns.
    Hang,
    /// The process ends by SIGABRT.
    Abort,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// In which call.
    pub call: DriverCall,
    /// In which of them, from 1.
    pub nth: u64,
    /// In every later one too.
    pub on: bool,
    /// What.
    pub mishap: Mishap,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.call.word(), self.nth)?;
        match self.mishap {
            Mishap::Status(code) => write!(f, "{code}")?,
            Mishap::Hang => f.write_str("hang")?,
            Mishap::Abort => f.write_str("abort")?,
        }
        f.write_str(if self.on { ":on" } else { "" })
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let wrong = || format!("`{text}` is not `CALL:NUMBER:STATUS|hang|abort[:on]`");
        let (front, on) = match text.strip_suffix(":on") {
            Some(front) => (front, true),
            None => (text, false),
        };
        let [call, nth, mishap] = front.split(':').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let call = DriverCall::ALL.iter().copied().find(|c| c.word() == call).ok_or_else(wrong)?;
        let nth = nth.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
        let mishap = match mishap {
            "hang" => Mishap::Hang,
            "abort" => Mishap::Abort,
            code => Mishap::Status(code.parse().ok().filter(|c| *c != 0).ok_or_else(wrong)?),
        };
        Ok(Fault { call, nth, on, mishap })
    }
}

/// What goes wrong with one device, and what it was asked for. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    faults: Vec<Fault>,
    made: BTreeMap<DriverCall, u64>,
    done: BTreeMap<DriverCall, u64>,
    failed: BTreeMap<DriverCall, u64>,
}

impl Faults {
    /// These.
    pub fn new(faults: Vec<Fault>) -> Faults {
        Faults(Arc::new(Mutex::new(State { faults, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Other faults from now on; calls are counted on.
    pub fn set(&self, faults: Vec<Fault>) {
        self.state().faults = faults;
    }

    /// How often each call was made.
    pub fn made(&self) -> BTreeMap<DriverCall, u64> {
        self.state().made.clone()
    }

    /// How many of what `take` gave were not given back by `give`.
    pub fn open(&self, take: DriverCall, give: DriverCall) -> i64 {
        let state = self.state();
        let count = |call| state.done.get(&call).copied().unwrap_or(0) as i64;
        count(take) - count(give)
    }

    /// How often the driver itself, not a fault, refused a call.
    pub fn refused(&self, call: DriverCall) -> u64 {
        self.state().failed.get(&call).copied().unwrap_or(0)
    }

    /// Makes a call, or what goes wrong with it.
    pub(super) fn make(&self, call: DriverCall, function: impl FnOnce() -> i32) -> i32 {
        let strikes = {
            let mut state = self.state();
            let nth = state.made.entry(call).or_default();
            *nth += 1;
            let nth = *nth;
            let strikes = |f: &&Fault| f.call == call && (f.nth == nth || f.on && f.nth < nth);
            state.faults.iter().find(strikes).map(|f| f.mishap)
        };
        match strikes {
            Some(Mishap::Status(code)) => return code,
            Some(Mishap::Abort) => std::process::abort(),
            Some(Mishap::Hang) => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
            None => {}
        }
        let code = function();
        let mut state = self.state();
        let counts = if code == 0 { &mut state.done } else { &mut state.failed };
        *counts.entry(call).or_default() += 1;
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_read_as_they_print() {
        for text in ["launch:3:700", "alloc:1:2:on", "wait:2:hang", "stream-end:1:abort", "to-host:9:-7"] {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
        for text in ["launch", "launch:0:1", "launch:1:0", "jump:1:1", "launch:1:1:off", "launch:1:1:1", ""] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_call_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<&str> = DriverCall::ALL.iter().map(|c| c.word()).collect();
        assert_eq!(words.len(), DriverCall::ALL.len());
    }
}
