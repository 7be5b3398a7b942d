//! Text to graph.

use super::cursor::Cursor;
use crate::attr::{Attr, Attrs};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::{Graph, Origin, Value};
use crate::ops::{Constraint, Op};
use crate::tensor::{Tensor, count};
use crate::types::{ValueType, split_top};
use std::collections::HashMap;
use std::sync::Arc;

/// Graphs inside attributes may nest this deep.
const MAX_DEPTH: usize = 32;

/// Text that is not a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ParseError {
    /// Line in the text, from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

/// A statement before its names are resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Stmt {
    /// Result names.
    pub results: Vec<String>,
    /// Operator name, `weight` or `const`.
    pub op: String,
    /// Operand names; `None` for `_`.
    pub operands: Vec<Option<String>>,
    /// Attributes.
    pub attrs: Attrs,
    /// Data of a `const`, as text.
    pub constant: Option<String>,
    /// Declared types, when the statement has them.
    pub types: Vec<ValueType>,
}

/// Parses one graph.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let mut parser = Parser { at: Cursor::new(text), depth: 0 };
    let graph = parser.graph()?;
    match parser.at.at_end() {
        true => Ok(graph),
        false => Err(parser.error("text after the end of the graph")),
    }
}

/// Parses statements without a graph around them: a pattern.
pub fn parse_stmts(text: &str) -> Result<Vec<Stmt>, ParseError> {
    let mut parser = Parser { at: Cursor::new(text), depth: 0 };
    let mut stmts = vec![];
    while !parser.at.at_end() {
        stmts.push(parser.stmt()?);
    }
    Ok(stmts)
}

struct Parser<'a> {
    at: Cursor<'a>,
    depth: usize,
}

impl Parser<'_> {
    fn error(&self, reason: impl Into<String>) -> ParseError {
        ParseError { line: self.at.line(), reason: reason.into() }
    }

    fn expect(&mut self, token: &str) -> Result<(), ParseError> {
        if self.at.take(token) { Ok(()) } else { Err(self.error(format!("expected `{token}`"))) }
    }

    fn name(&mut self) -> Result<String, ParseError> {
        self.at.name().ok_or_else(|| self.error("expected a name"))
    }

    fn ty(&mut self) -> Result<ValueType, ParseError> {
        let text = self.at.type_text();
        text.parse().map_err(|e| self.error(format!("{e}")))
    }

    fn graph(&mut self) -> Result<Graph, ParseError> {
        if self.depth == MAX_DEPTH {
            return Err(self.error("graphs are nested too deeply"));
        }
        self.depth += 1;
        self.expect("graph")?;
        self.expect("@")?;
        let mut g = Graph::new(self.name()?);
        let mut values = HashMap::new();
        self.expect("(")?;
        while !self.at.take(")") {
            let is_state = self.at.take_word("state");
            self.expect("%")?;
            let name = self.name()?;
            self.expect(":")?;
            let ty = self.ty()?;
            let v = if is_state { g.state(&name, ty) } else { g.input(&name, ty) };
            self.define(&mut values, name, v)?;
            self.at.take(",");
        }
        self.expect("{")?;
        while self.at.take_word("assume") {
            let text = self.at.until(&['\n']);
            let (left, right) = text.split_once(" = ").ok_or_else(|| self.error("expected `assume a = b`"))?;
            let dim = |t: &str| t.trim().parse::<Dim>().map_err(|e| self.error(format!("{e}")));
            g.constraints.insert(Constraint { left: dim(left)?, right: dim(right)? });
        }
        while !self.at.take_word("return") {
            let stmt = self.stmt()?;
            self.add(&mut g, stmt, &mut values)?;
        }
        while self.at.take("%") {
            let name = self.name()?;
            let v = *values.get(&name).ok_or_else(|| self.error(format!("unknown value `%{name}`")))?;
            let shown = match self.at.take_word("as") {
                true => self.at.quoted().ok_or_else(|| self.error("expected a quoted output name"))?,
                false => name,
            };
            g.output(&shown, v);
            self.at.take(",");
        }
        self.expect("}")?;
        self.depth -= 1;
        Ok(g)
    }

    fn define(&self, values: &mut HashMap<String, Value>, name: String, v: Value) -> Result<(), ParseError> {
        match values.insert(name.clone(), v) {
            None => Ok(()),
            Some(_) => Err(self.error(format!("`%{name}` is defined twice"))),
        }
    }

    fn stmt(&mut self) -> Result<Stmt, ParseError> {
        let mut results = vec![];
        loop {
            self.expect("%")?;
            results.push(self.name()?);
            if !self.at.take(",") {
                break;
            }
        }
        self.expect("=")?;
        let op = self.at.run(|c| c.is_ascii_alphanumeric() || c == '_').to_string();
        let mut s = Stmt { results, op, operands: vec![], attrs: Attrs::new(), constant: None, types: vec![] };
        if s.op == "const" {
            self.expect("[")?;
            s.constant = Some(self.at.until(&[']']).to_string());
            self.expect("]")?;
        } else if s.op != "weight" {
            self.expect("(")?;
            while !self.at.take(")") {
                if self.at.take("%") {
                    s.operands.push(Some(self.name()?));
                } else {
                    self.expect("_")?;
                    s.operands.push(None);
                }
                if !self.at.take(",") && !self.at.peek(")") {
                    return Err(self.error("expected `,` or `)` after an operand"));
                }
            }
        }
        if self.at.take("{") {
            while !self.at.take("}") {
                let key = self.at.run(|c| c.is_ascii_alphanumeric() || c == '_').to_string();
                self.expect("=")?;
                let value = self.attr()?;
                s.attrs.insert(key, value);
                if !self.at.take(",") && !self.at.peek("}") {
                    return Err(self.error("expected `,` or `}` after an attribute"));
                }
            }
        }
        if self.at.take(":") {
            loop {
                s.types.push(self.ty()?);
                if !self.at.take(",") {
                    break;
                }
            }
        }
        Ok(s)
    }

    fn attr(&mut self) -> Result<Attr, ParseError> {
        if self.at.peek("\"") {
            return self.at.quoted().map(Attr::Str).ok_or_else(|| self.error("text without a closing quote"));
        }
        if self.at.peek("graph @") {
            return Ok(Attr::Graph(Arc::new(self.graph()?)));
        }
        if self.at.take("[") {
            let mut items = vec![];
            while !self.at.take("]") {
                items.push(self.attr()?);
                if !self.at.take(",") && !self.at.peek("]") {
                    return Err(self.error("expected `,` or `]` in a list"));
                }
            }
            return Ok(Attr::List(items));
        }
        let word = self.at.until(&[',', ']', '}']);
        if word.is_empty() {
            return Err(self.error("expected an attribute's value"));
        }
        if let Some(inner) = word.strip_prefix("tensor(").and_then(|w| w.strip_suffix(')')) {
            let parts: Vec<_> = split_top(inner).collect();
            let [ty, data] = parts[..] else { return Err(self.error("expected tensor(type, [elements])")) };
            let ty: ValueType = ty.parse().map_err(|e| self.error(format!("{e}")))?;
            let data = data.trim().strip_prefix('[').and_then(|d| d.strip_suffix(']'));
            let data = data.ok_or_else(|| self.error("expected `[elements]`"))?;
            return self.tensor(&ty, data).map(Attr::Tensor);
        }
        if let Ok(n) = word.parse() {
            return Ok(Attr::Int(n));
        }
        let numeric = word.starts_with(|c: char| c.is_ascii_digit() || c == '-') || word == "inf" || word == "NaN";
        match word.parse::<f64>() {
            Ok(v) if numeric => Ok(Attr::Float(v)),
            _ => Ok(Attr::Word(word.to_string())),
        }
    }

    fn tensor(&self, ty: &ValueType, data: &str) -> Result<Tensor, ParseError> {
        let t = ty.as_tensor().ok_or_else(|| self.error(format!("{ty} is not a tensor")))?;
        let dims = t.shape.as_const().ok_or_else(|| self.error("a constant's shape is not numbers"))?;
        let parts: Vec<&str> = split_top(data).map(str::trim).collect();
        let bad = |p: &str| self.error(format!("`{p}` is not an element of {}", t.dtype));
        if count(&dims).ok() != Some(parts.len()) {
            return Err(self.error(format!("{ty} does not have {} elements", parts.len())));
        }
        let made = if t.dtype == DType::Str {
            let texts = parts.iter().map(|p| Cursor::new(p).quoted().ok_or_else(|| bad(p)));
            Tensor::from_strings(&dims, texts.collect::<Result<_, _>>()?)
        } else if t.dtype.is_float() {
            let numbers: Result<Vec<f64>, _> = parts.iter().map(|p| p.parse().map_err(|_| bad(p))).collect();
            Tensor::from_f64(t.dtype, &dims, &numbers?)
        } else {
            let numbers: Result<Vec<i128>, _> = parts.iter().map(|p| p.parse().map_err(|_| bad(p))).collect();
            Tensor::from_ints(t.dtype, &dims, &numbers?)
        };
        made.map_err(|e| self.error(e.to_string()))
    }

    fn add(&self, g: &mut Graph, s: Stmt, values: &mut HashMap<String, Value>) -> Result<(), ParseError> {
        let only = |what: &str| match (&s.types[..], &s.results[..]) {
            ([ty], [name]) => Ok((ty, name.clone())),
            _ => Err(self.error(format!("a {what} has one name and one type"))),
        };
        let made = if s.op == "weight" {
            let (ty, name) = only("weight")?;
            let ty = ty.as_tensor().ok_or_else(|| self.error("a weight is a tensor"))?;
            vec![g.weight(&name, ty.clone())]
        } else if let Some(data) = &s.constant {
            let (ty, name) = only("const")?;
            vec![g.constant(&name, self.tensor(ty, data)?)]
        } else {
            let op = Op::parse(&s.op, &s.attrs).map_err(|e| self.error(format!("`{}`: {e}", s.op)))?;
            let operands = s.operands.iter().map(|o| match o {
                None => Ok(g.absent()),
                Some(n) => values.get(n).copied().ok_or_else(|| self.error(format!("unknown value `%{n}`"))),
            });
            let operands = operands.collect::<Result<Vec<_>, _>>()?;
            let names: Vec<&str> = s.results.iter().map(String::as_str).collect();
            let declared = (!s.types.is_empty()).then_some(&s.types[..]);
            let node = g
                .push_as(op, &operands, &names, Origin::new(), declared)
                .map_err(|e| self.error(format!("`%{}`: {e}", s.results[0])))?;
            if g.node(node).names.len() != s.results.len() {
                return Err(self.error(format!("`{}` has {} results", s.op, g.node(node).names.len())));
            }
            g.results(node).collect()
        };
        for (name, v) in s.results.into_iter().zip(made) {
            self.define(values, name, v)?;
        }
        Ok(())
    }
}
