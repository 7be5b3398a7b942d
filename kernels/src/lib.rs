//! Device kernels: their source, embedded, and the table of what each takes, generated from manifest.yaml.
//!
//! One source serves AMD (clang or hipRTC), NVIDIA (NVRTC) and x86 (the simulator): `hip/*.hip` with one prelude. A
//! function of [`table`] makes a [`Call`]: it has exactly the kernel's parameters, so a drift does not compile.
//!
//! ```
//! use kernels::{Element, table};
//! let call = table::softmax(Element::F32, "x", "y", 10, 64, 1).unwrap();
//! assert_eq!((call.kernel.name, call.grid()), ("softmax_f32", [10, 1, 1]));
//! assert_eq!(call.extents(), [("x", false, 2560), ("y", true, 2560)]);
//! ```

mod call;
mod source;

pub use call::{Arg, Call, Element, Kernel, Param, ParamKind};
pub use source::{Source, source};

/// Every kernel, and a function per manifest entry.
#[allow(clippy::all, reason = "it is generated")]
pub mod table {
    use crate::{Arg, Call, Element, Kernel, Param, ParamKind};
    use std::cmp::{max, min};

    /// `a / b` rounded up, for `a` of at least 0.
    fn div_up(a: i64, b: i64) -> i64 {
        (a + b - 1) / b
    }

    #[allow(unused_imports, reason = "expressions of the manifest may use them")]
    use self::{max as _, min as _};

    include!(concat!(env!("OUT_DIR"), "/table.rs"));
}
