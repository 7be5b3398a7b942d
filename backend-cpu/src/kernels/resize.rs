//! Resizing by interpolation, one axis after the other: nearest, linear and cubic, with or without antialiasing.
//!
//! Each axis is a table that says which input positions an output position mixes, and with which weights; so every mode
//! and rule of the operator `resize` is a way to fill the table, and one loop runs them all.

use super::vectorise::{fma, vectorise};

/// One axis of a resize: for each output position its weighted input positions.
#[derive(Clone, Debug, PartialEq)]
pub struct AxisTable {
    from: usize,
    /// Where the taps of each output position start, and the end.
    starts: Vec<usize>,
    taps: Vec<(usize, f32)>,
    /// Added to each output position: the extrapolated value where there are no taps.
    offsets: Vec<f32>,
}

impl AxisTable {
    /// The table from `from` positions to as many as there are items: each one's weighted positions below `from`, or none
    /// for a position that shows `outside`.
    pub fn new(from: usize, taps: impl IntoIterator<Item = Option<Vec<(usize, f64)>>>, outside: f32) -> AxisTable {
        let mut table = AxisTable { from, starts: vec![0], taps: Vec::new(), offsets: Vec::new() };
        for taps in taps {
            table.offsets.push(if taps.is_some() { 0.0 } else { outside });
            table.taps.extend(taps.into_iter().flatten().map(|(place, weight)| (place, weight as f32)));
            table.starts.push(table.taps.len());
        }
        table
    }

    /// Output positions.
    pub fn to(&self) -> usize {
        self.offsets.len()
    }

    /// Resizes blocks `[from, inner]` of `x` to blocks `[to, inner]` of `y`; both hold whole blocks.
    pub fn run(&self, inner: usize, x: &[f32], y: &mut [f32]) {
        resize_blocks(self, inner, x, y);
    }
}

vectorise! {
    fn resize_blocks<FMA>(table: &AxisTable, inner: usize, x: &[f32], y: &mut [f32]) {
        if inner * table.to() * table.from == 0 {
            return;
        }
        let blocks = x.chunks_exact(table.from * inner).zip(y.chunks_exact_mut(table.to() * inner));
        for (x, y) in blocks {
            for (out, y) in y.chunks_exact_mut(inner).enumerate() {
                let taps = &table.taps[table.starts[out]..table.starts[out + 1]];
                if let &[(place, 1.0)] = taps {
                    y.copy_from_slice(&x[place * inner..][..inner]);
                    continue;
                }
                y.fill(table.offsets[out]);
                for &(place, weight) in taps {
                    for (y, &x) in y.iter_mut().zip(&x[place * inner..][..inner]) {
                        *y = fma::<FMA>(weight, x, *y);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_mixed_as_vectors() {
        let taps = [vec![(0, 1.0)], vec![(0, 0.75), (1, 0.25)], vec![(0, 0.25), (1, 0.75)], vec![(1, 1.0)]];
        let table = AxisTable::new(2, taps.map(Some), 0.0);
        let mut y = [0.0; 12];
        table.run(3, &[0.0, 1.0, 2.0, 4.0, 5.0, 6.0], &mut y);
        assert_eq!(y, [0.0, 1.0, 2.0, 1.0, 2.0, 3.0, 3.0, 4.0, 5.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn a_position_outside_shows_its_value() {
        let table = AxisTable::new(2, [Some(vec![(1, 1.0)]), None], 9.0);
        let mut y = [0.0; 2];
        table.run(1, &[1.0, 2.0], &mut y);
        assert_eq!(y, [2.0, 9.0]);
    }
}
