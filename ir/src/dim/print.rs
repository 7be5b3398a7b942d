//! The text form: `2*B*S + P - 1`, `floordiv(S + 1, 2)`, `min(a, b)`, `max(a, b)`, `"batch size"`.

use std::fmt::{self, Debug, Display, Formatter, Write};

use super::parse::is_plain;
use super::{Atom, Dim, Repr, Term};

impl Display for Dim {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match &self.0 {
            Repr::Const(n) => write!(f, "{n}"),
            Repr::Sym(name) => symbol(name, f),
            Repr::Sum(terms) => {
                for (at, term) in terms.iter().enumerate() {
                    f.write_str(match (at, term.coef < 0) {
                        (0, false) => "",
                        (0, true) => "-",
                        (_, false) => " + ",
                        (_, true) => " - ",
                    })?;
                    term.print(f)?;
                }
                Ok(())
            }
        }
    }
}

impl Debug for Dim {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Term {
    /// Prints the term without its sign.
    fn print(&self, f: &mut Formatter) -> fmt::Result {
        let coef = self.coef.unsigned_abs();
        if coef != 1 || self.atoms.is_empty() {
            write!(f, "{coef}")?;
            if !self.atoms.is_empty() {
                f.write_str("*")?;
            }
        }
        for (at, atom) in self.atoms.iter().enumerate() {
            if at > 0 {
                f.write_str("*")?;
            }
            atom.print(f)?;
        }
        Ok(())
    }
}

impl Atom {
    fn print(&self, f: &mut Formatter) -> fmt::Result {
        let function = match self {
            Atom::Sym(name) => return symbol(name, f),
            Atom::FloorDiv(_) => "floordiv",
            Atom::Min(_) => "min",
            Atom::Max(_) => "max",
        };
        write!(f, "{function}(")?;
        for (at, part) in self.parts().iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            Display::fmt(part, f)?;
        }
        f.write_str(")")
    }
}

fn symbol(name: &str, f: &mut Formatter) -> fmt::Result {
    if is_plain(name) {
        return f.write_str(name);
    }
    f.write_str("\"")?;
    for c in name.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c => f.write_char(c)?,
        }
    }
    f.write_str("\"")
}
