//! Columns of text: the first aligned left, numbers right.

use std::io::{self, Write};

/// How a column is aligned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table that is printed at once, as wide as its cells.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: vec![] }
    }

    /// Adds a row with one cell per column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        debug_assert_eq!(cells.len(), self.columns.len(), "one cell per column");
        self.rows.push(cells);
    }

    /// Prints header and rows, indented by two.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let length = |text: &str| text.chars().count();
        let width = |i: usize| {
            let cells = self.rows.iter().map(|r| length(&r[i]));
            cells.chain([length(self.columns[i].0)]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let header: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_string()).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::from(" ");
            for ((cell, (_, align)), width) in row.iter().zip(&self.columns).zip(&widths) {
                let pad = " ".repeat(width - length(cell));
                match align {
                    Align::Left => line += &format!(" {cell}{pad} "),
                    Align::Right => line += &format!(" {pad}{cell} "),
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_align_right() {
        let mut table = Table::new(&[("op", Align::Left), ("n", Align::Right)]);
        table.row(["add".to_string(), "3".to_string()]);
        table.row(["matmul".to_string(), "12".to_string()]);
        let mut text = vec![];
        table.print(&mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "  op       n\n  add      3\n  matmul  12\n");
    }
}
