//! What a kernel takes, and one call of it.

/// Element types of memory that kernels touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Upper half of binary32.
    BF16,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 8-bit unsigned integer, also a truth value.
    U8,
    /// 16 bits of anything.
    U16,
    /// 32 bits of anything.
    U32,
    /// 64 bits of anything.
    U64,
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> i64 {
        match self {
            Element::I64 | Element::U64 => 8,
            Element::F32 | Element::I32 | Element::U32 => 4,
            Element::F16 | Element::BF16 | Element::U16 => 2,
            Element::U8 => 1,
        }
    }
}

/// A kernel of the manifest, for given element types.
pub struct Kernel {
    /// Its symbol.
    pub name: &'static str,
    /// The manifest entry it comes from.
    pub entry: &'static str,
    /// The operators it serves.
    pub op: &'static str,
    /// The source file, without `.hip`: kernels of one file are compiled together.
    pub file: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Whether matrix instructions must be in its code.
    pub matrix: bool,
    /// Threads of a block.
    pub block: u32,
    /// Bytes of shared memory it may take, at most.
    pub lds: u32,
    /// Its parameters, in order.
    pub params: &'static [Param],
    /// Blocks along x, y and z, from its integers in order.
    pub grid: fn(&[i64]) -> [i64; 3],
    /// Elements it may touch behind each pointer, from its integers.
    pub extents: fn(&[i64]) -> Vec<i64>,
    /// The first precondition that its integers break.
    pub broken: fn(&[i64]) -> Option<&'static str>,
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Kernel) -> bool {
        self.name == other.name
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name in the manifest.
    pub name: &'static str,
    /// What is passed.
    pub kind: ParamKind,
}

/// What is passed for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// The address of memory of the device.
    Memory {
        /// Whether it is written; otherwise it is only read.
        write: bool,
        /// What lies there.
        element: Element,
    },
    /// An unsigned 32-bit integer.
    U32,
    /// A signed 32-bit integer.
    I32,
    /// A signed 64-bit integer.
    I64,
    /// A float.
    F32,
    /// So many 32-bit words by value.
    Words(usize),
    /// The address of the report of indices out of range.
    Report,
}

/// A call of a kernel; `M` says what memory is.
#[derive(Clone, Debug, PartialEq)]
pub struct Call<M> {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// One per parameter.
    pub args: Vec<Arg<M>>,
}

/// What is passed.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg<M> {
    /// Memory.
    Memory(M),
    /// A number.
    Int(i64),
    /// A number.
    Float(f32),
    /// Words by value.
    Words(Vec<u32>),
    /// Where to report indices out of range.
    Report,
}

impl<M: Clone> Call<M> {
    /// Its integers in order.
    pub fn numbers(&self) -> Vec<i64> {
        let int = |a: &Arg<M>| if let Arg::Int(n) = a { Some(*n) } else { None };
        self.args.iter().filter_map(int).collect()
    }

    /// Blocks along x, y and z.
    pub fn grid(&self) -> [i64; 3] {
        (self.kernel.grid)(&self.numbers())
    }

    /// Why the numbers do not fit the kernel: a precondition, or the range of a parameter.
    pub fn broken(&self) -> Option<String> {
        for (param, arg) in self.kernel.params.iter().zip(&self.args) {
            let Arg::Int(n) = arg else { continue };
            let fits = match param.kind {
                ParamKind::U32 => u32::try_from(*n).is_ok(),
                ParamKind::I32 => i32::try_from(*n).is_ok(),
                _ => true,
            };
            if !fits {
                return Some(format!("{} = {n} is out of its range", param.name));
            }
        }
        (self.kernel.broken)(&self.numbers()).map(str::to_string)
    }

    /// Every memory with whether it is written and how many bytes may be touched from its start.
    pub fn extents(&self) -> Vec<(M, bool, i64)> {
        let counts = (self.kernel.extents)(&self.numbers());
        let mut counts = counts.into_iter();
        let mut found = vec![];
        for (param, arg) in self.kernel.params.iter().zip(&self.args) {
            if let (ParamKind::Memory { write, element }, Arg::Memory(m)) = (param.kind, arg) {
                let count = counts.next().expect("the table has an extent per memory");
                found.push((m.clone(), write, count.max(0).saturating_mul(element.bytes())));
            }
        }
        found
    }
}
