//! Places, steps, buffers, ports and weights as one line of text each: what people see and what plan.yaml holds.
//!
//! ```text
//! b3[64*S]                                                 a place, from a byte on
//! %y = linear(in0, %w, b2) -> b4 scratch b5[4096] free s1  a launch
//! %k1 = kv_write(in1, in2, in3, state0, b4) -> state0      a launch that changes a state
//! copy %x b1 -> b2 on 1                                    between memories, on stream 1
//! sync 1 -> 0                                              stream 0 waits for stream 1
//! pace 1 -> 0 "every 32"
//! b4 [256*B] life 3..9 after b1 b2                         a buffer
//! in0 %x f32[B, 4]                                         a port
//! %w panel16 own - f32[64, 64]                             a weight; - where there is no hash yet
//! ```

use crate::layout::Layout;
use crate::model::{
    Buffer, BufferId, Hash, Launch, Loc, Place, Port, SlotId, Source, Step, Stream, SyncKind, SyncPoint, Transfer,
    WeightInfo,
};
use ir::text::quoted_name;
use ir::{Dim, TensorType, ValueType};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Input(i) => write!(f, "in{i}"),
            Place::Output(i) => write!(f, "out{i}"),
            Place::State(i) => write!(f, "state{i}"),
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

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T], between: &str) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if i == 0 { "" } else { between })?;
    }
    Ok(())
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Launch(launch) => launch.fmt(f),
            Step::Copy(Transfer { stream, value, from, to }) => {
                write!(f, "copy %{} {from} -> {to}{}", quoted_name(value), On(*stream))
            }
            Step::Sync(SyncPoint { signaller, waiter, kind: SyncKind::Order }) => {
                write!(f, "sync {} -> {}", signaller.0, waiter.0)
            }
            Step::Sync(SyncPoint { signaller, waiter, kind: SyncKind::Pace { reason } }) => {
                write!(f, "pace {} -> {} {reason:?}", signaller.0, waiter.0)
            }
        }
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{} = {}(", quoted_name(&self.node), quoted_name(&self.kernel))?;
        list(f, &self.reads, ", ")?;
        f.write_str(") -> ")?;
        list(f, &self.writes, ", ")?;
        if let Some(scratch) = self.scratch {
            write!(f, " scratch b{}[{}]", scratch.0, self.scratch_bytes)?;
        }
        if self.in_place {
            f.write_str(" in_place")?;
        }
        if !self.frees.is_empty() {
            f.write_str(" free ")?;
            list(f, &self.frees.iter().map(|s| Place::Slot(*s)).collect::<Vec<_>>(), " ")?;
        }
        On(self.stream).fmt(f)
    }
}

/// Streams other than the host are named.
struct On(Stream);

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == Stream::HOST { Ok(()) } else { write!(f, " on {}", self.0.0) }
    }
}

/// A buffer's line; its number is its position.
pub(crate) fn buffer_line(id: usize, buffer: &Buffer) -> String {
    let mut line = format!("b{id} [{}] life {}..{}", buffer.bytes, buffer.first, buffer.last);
    if !buffer.after.is_empty() {
        line += " after";
        buffer.after.iter().for_each(|b| line += &format!(" b{}", b.0));
    }
    line
}

pub(crate) fn port_line(port: &Port) -> String {
    format!("{} %{} {}", port.value, quoted_name(&port.name), port.ty)
}

pub(crate) fn weight_line(key: &str, info: &WeightInfo) -> String {
    let source = match &info.source {
        Source::Own => "own".to_string(),
        Source::Linked { path, offset, len } => format!("link {:?} {offset} {len}", path.to_string_lossy()),
    };
    let hash = info.hash.map_or("-".to_string(), |h| h.to_string());
    let ty = TensorType::new(info.dtype, info.dims.iter().copied());
    format!("%{} {} {source} {hash} {ty}", quoted_name(key), info.layout.name())
}

/// Why a line is not what it should be.
pub(crate) type Reason = String;

/// Reads lines; dimension expressions, of which a plan repeats a few a thousand times, are read once each.
#[derive(Default)]
pub(crate) struct Reader {
    dims: HashMap<String, Dim>,
}

impl Reader {
    pub fn step(&mut self, line: &str) -> Result<Step, Reason> {
        let mut at = Line { rest: line };
        let step = if at.take("copy ") {
            let value = at.value_name()?;
            let from = self.loc(&mut at)?;
            at.expect("->")?;
            let to = self.loc(&mut at)?;
            let stream = if at.take("on ") { Stream(at.number()?) } else { Stream::HOST };
            Step::Copy(Transfer { stream, value, from, to })
        } else if at.take("sync ") {
            Step::Sync(at.sync()?)
        } else if at.take("pace ") {
            let sync = at.sync()?;
            Step::Sync(SyncPoint { kind: SyncKind::Pace { reason: at.quoted()? }, ..sync })
        } else {
            Step::Launch(self.launch(&mut at)?)
        };
        at.end()?;
        Ok(step)
    }

    fn launch(&mut self, at: &mut Line<'_>) -> Result<Launch, Reason> {
        let node = at.value_name()?;
        at.expect("=")?;
        let kernel = at.name()?;
        at.expect("(")?;
        let reads = self.locs(at)?;
        at.expect(")")?;
        at.expect("->")?;
        let writes = self.locs(at)?;
        let (mut scratch, mut scratch_bytes, mut frees) = (None, Dim::constant(0), vec![]);
        if at.take("scratch ") {
            let Loc { place: Place::Buffer(id), offset } = self.loc(at)? else {
                return Err("scratch memory is a buffer".into());
            };
            (scratch, scratch_bytes) = (Some(id), offset);
        }
        let in_place = at.take("in_place");
        if at.take("free ") {
            while let Some(Place::Slot(id)) = at.place()? {
                frees.push(id);
            }
        }
        let stream = if at.take("on ") { Stream(at.number()?) } else { Stream::HOST };
        Ok(Launch { stream, kernel, node, reads, writes, scratch, scratch_bytes, in_place, frees })
    }

    pub fn buffer(&mut self, id: usize, line: &str) -> Result<Buffer, Reason> {
        let mut at = Line { rest: line };
        if at.place()? != Some(Place::Buffer(BufferId(id as u32))) {
            return Err(format!("expected b{id}"));
        }
        let bytes = self.dim(&mut at)?.ok_or("expected a size in brackets")?;
        at.expect("life")?;
        let first = at.number()?;
        at.expect("..")?;
        let last = at.number()?;
        let mut after = vec![];
        if at.take("after ") {
            while let Some(Place::Buffer(id)) = at.place()? {
                after.push(id);
            }
        }
        at.end()?;
        Ok(Buffer { bytes, after, first, last })
    }

    pub fn port(&mut self, line: &str) -> Result<Port, Reason> {
        let mut at = Line { rest: line };
        let value = self.loc(&mut at)?;
        let name = at.value_name()?;
        Ok(Port { name, ty: at.ty()?, value })
    }

    pub fn weight(&mut self, line: &str) -> Result<(Arc<str>, WeightInfo), Reason> {
        let mut at = Line { rest: line };
        let key = at.value_name()?;
        let word = at.name()?;
        let layout = Layout::from_name(&word).ok_or_else(|| format!("`{word}` is not a layout"))?;
        let source = if at.take("own ") {
            Source::Own
        } else {
            at.expect("link")?;
            Source::Linked { path: at.quoted()?.into(), offset: at.number()?, len: at.number()? }
        };
        let word = at.name()?;
        let hash = match &*word {
            "-" => None,
            hex => Some(Hash::from_hex(hex).ok_or_else(|| format!("`{hex}` is not a hash"))?),
        };
        let ty = at.ty()?;
        let Some((dtype, Some(dims))) = ty.as_tensor().map(|t| (t.dtype, t.shape.as_const())) else {
            return Err(format!("{ty} is not the type of a weight"));
        };
        Ok((key, WeightInfo { dtype, dims, layout, source, hash }))
    }

    fn locs(&mut self, at: &mut Line<'_>) -> Result<Vec<Loc>, Reason> {
        let mut locs = vec![];
        while let Some(place) = at.place()? {
            locs.push(self.offset(place, at)?);
            if !at.take(",") {
                break;
            }
        }
        Ok(locs)
    }

    fn loc(&mut self, at: &mut Line<'_>) -> Result<Loc, Reason> {
        let place = at.place()?.ok_or_else(|| at.wrong("a place"))?;
        self.offset(place, at)
    }

    fn offset(&mut self, place: Place, at: &mut Line<'_>) -> Result<Loc, Reason> {
        let offset = if at.rest.starts_with('[') { self.dim(at)? } else { None };
        Ok(Loc { place, offset: offset.unwrap_or_else(|| Dim::constant(0)) })
    }

    /// An expression in brackets.
    fn dim(&mut self, at: &mut Line<'_>) -> Result<Option<Dim>, Reason> {
        let Some(text) = at.bracketed()? else { return Ok(None) };
        if let Some(known) = self.dims.get(text) {
            return Ok(Some(known.clone()));
        }
        let dim: Dim = text.parse().map_err(|e| format!("{e}"))?;
        self.dims.insert(text.to_string(), dim.clone());
        Ok(Some(dim))
    }
}

/// What is left of a line.
struct Line<'a> {
    rest: &'a str,
}

impl<'a> Line<'a> {
    fn wrong(&self, expected: &str) -> Reason {
        let rest: String = self.rest.trim_start().chars().take(40).collect();
        format!("expected {expected}, found `{rest}`")
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start_matches(' ');
        let found = rest.strip_prefix(token);
        self.rest = found.unwrap_or(rest);
        found.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), Reason> {
        if self.take(token) { Ok(()) } else { Err(self.wrong(&format!("`{token}`"))) }
    }

    fn end(&mut self) -> Result<(), Reason> {
        if self.rest.trim().is_empty() { Ok(()) } else { Err(self.wrong("the end of the line")) }
    }

    fn run(&mut self, f: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !f(c)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at(end);
        self.rest = rest;
        run
    }

    fn number<T: FromStr>(&mut self) -> Result<T, Reason> {
        self.take(" ");
        let wrong = self.wrong("a number");
        self.run(|c| c.is_ascii_digit()).parse().map_err(|_| wrong)
    }

    fn name(&mut self) -> Result<String, Reason> {
        self.take(" ");
        if self.rest.starts_with('"') {
            return self.quoted();
        }
        let wrong = self.wrong("a name");
        let name = self.run(|c| c.is_ascii_alphanumeric() || "_./:-$#".contains(c));
        if name.is_empty() { Err(wrong) } else { Ok(name.to_string()) }
    }

    fn value_name(&mut self) -> Result<Arc<str>, Reason> {
        self.expect("%")?;
        Ok(self.name()?.into())
    }

    /// A text in quotes, with Rust's escapes.
    fn quoted(&mut self) -> Result<String, Reason> {
        self.expect("\"")?;
        let mut out = String::new();
        let mut chars = self.rest.chars();
        loop {
            let c = match chars.next() {
                Some('"') => break,
                Some('\\') => escape(&mut chars),
                other => other,
            };
            out.push(c.ok_or("a quoted text does not end")?);
        }
        self.rest = chars.as_str();
        Ok(out)
    }

    /// What stands between brackets, brackets in quotes aside; `None` when no bracket comes next.
    fn bracketed(&mut self) -> Result<Option<&'a str>, Reason> {
        if !self.take("[") {
            return Ok(None);
        }
        let (mut quoted, mut escaped) = (false, false);
        for (i, c) in self.rest.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ']' if !quoted => {
                    let inner = &self.rest[..i];
                    self.rest = &self.rest[i + 1..];
                    return Ok(Some(inner));
                }
                _ => {}
            }
        }
        Err("a bracket is not closed".into())
    }

    /// A place, if one comes next: a word like `scratch` is none.
    fn place(&mut self) -> Result<Option<Place>, Reason> {
        self.take(" ");
        if self.take("%") {
            return Ok(Some(Place::Weight(self.name()?.into())));
        }
        if self.take("_") {
            return Ok(Some(Place::None));
        }
        for prefix in ["in", "out", "state", "b", "s"] {
            let Some(rest) = self.rest.strip_prefix(prefix).filter(|r| r.starts_with(|c: char| c.is_ascii_digit()))
            else {
                continue;
            };
            self.rest = rest;
            let n = self.number()?;
            return Ok(Some(match prefix {
                "in" => Place::Input(n),
                "out" => Place::Output(n),
                "state" => Place::State(n),
                "b" => Place::Buffer(BufferId(n)),
                _ => Place::Slot(SlotId(n)),
            }));
        }
        Ok(None)
    }

    fn sync(&mut self) -> Result<SyncPoint, Reason> {
        let signaller = Stream(self.number()?);
        self.expect("->")?;
        Ok(SyncPoint { signaller, waiter: Stream(self.number()?), kind: SyncKind::Order })
    }

    /// A type: the rest of the line.
    fn ty(&mut self) -> Result<ValueType, Reason> {
        std::mem::take(&mut self.rest).parse().map_err(|e| format!("{e}"))
    }
}

fn escape(chars: &mut std::str::Chars<'_>) -> Option<char> {
    match chars.next()? {
        'n' => Some('\n'),
        't' => Some('\t'),
        'r' => Some('\r'),
        '0' => Some('\0'),
        'u' => {
            let (code, rest) = chars.as_str().strip_prefix('{')?.split_once('}')?;
            *chars = rest.chars();
            char::from_u32(u32::from_str_radix(code, 16).ok()?)
        }
        plain @ ('"' | '\'' | '\\') => Some(plain),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_read_back() {
        let lines = [
            "%y = linear(in0, %w, b2[64*S]) -> b4",
            "%y = linear(in0, %\"a b\\n\", _) -> b4, out1 scratch b5[4096*B] free s1 s22 on 3",
            "%\"\\u{1}]\" = \"odd kernel\"() -> s0 in_place",
            "copy %x b1 -> b2[min(4, P)] on 1",
            "sync 1 -> 0",
            "pace 1 -> 0 \"chunks of \\\"32\\\" rows\"",
        ];
        for line in lines {
            let step = Reader::default().step(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert_eq!(step.to_string(), line);
        }
    }

    #[test]
    fn other_lines_read_back() {
        let mut reader = Reader::default();
        let line = "b4 [256*B] life 3..9 after b1 b2";
        assert_eq!(buffer_line(4, &reader.buffer(4, line).unwrap()), line);
        let line = "s3[4] %\"x y\" seq<f32[..]>";
        assert_eq!(port_line(&reader.port(line).unwrap()), line);
        for line in ["%w panel16 own - f32[64, 64]", "%w row_major link \"a/b.bin\" 7 8 - i64[1]"] {
            let (key, info) = reader.weight(line).unwrap();
            assert_eq!(weight_line(&key, &info), line);
        }
    }

    #[test]
    fn a_wrong_line_says_what_was_expected() {
        let wrong = |line: &str| Reader::default().step(line).unwrap_err();
        assert_eq!(wrong("%y linear(in0)"), "expected `=`, found `linear(in0)`");
        assert_eq!(wrong("%y = linear(in0) -> b1 b2"), "expected the end of the line, found `b2`");
        assert_eq!(wrong("%y = linear(b99999999999) -> b1"), "expected a number, found `99999999999) -> b1`");
        assert_eq!(wrong("pace 1 -> 0 \"x"), "a quoted text does not end");
        assert!(wrong("%y = f(b0[S) -> b1").contains("not closed"));
    }
}
