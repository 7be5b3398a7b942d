//! Resizing by interpolation, one axis after the other: nearest, linear and cubic, with or without antialiasing.
//!
//! Each axis is a table that says which input positions an output position mixes, and with which weights; so every mode
//! and rule of ONNX's Resize is a way to fill the table, and one loop runs them all.

use super::vectorise::{fma, vectorise};

/// How an output position maps to an input position.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names and formulas are those of ONNX's Resize")]
pub enum Coordinate {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    /// With the region's start and end along the axis.
    CropAndResize {
        start: f64,
        end: f64,
    },
}

/// Which neighbour a position between two is given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of ONNX's Resize")]
pub enum Nearest {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// How neighbours are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of ONNX's Resize")]
pub enum Interpolation {
    Nearest(Nearest),
    Linear,
    /// With the coefficient `a`, usually -0.75.
    Cubic(f64),
}

/// The rules of one axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AxisRules {
    /// How positions map.
    pub coordinate: Coordinate,
    /// How neighbours are mixed.
    pub interpolation: Interpolation,
    /// Output size over input size, as given or computed.
    pub scale: f64,
    /// Positions outside the input get no weight, rather than the edge's value.
    pub exclude_outside: bool,
    /// Widen the filter when shrinking.
    pub antialias: bool,
    /// What a position outside a cropped region shows; none where positions are never outside.
    pub extrapolation: Option<f32>,
}

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
    /// The table from `from` positions, at least 1, to `to`.
    pub fn new(rules: AxisRules, from: usize, to: usize) -> AxisTable {
        let mut table = AxisTable { from, starts: vec![0], taps: Vec::new(), offsets: Vec::new() };
        for out in 0..to {
            let x = rules.position(out, from, to);
            let outside = x < 0.0 || x > from.saturating_sub(1) as f64;
            let cropped = matches!(rules.coordinate, Coordinate::CropAndResize { .. });
            match rules.extrapolation.filter(|_| cropped && outside) {
                Some(value) => table.offsets.push(value),
                None => {
                    table.offsets.push(0.0);
                    rules.taps(x, from, &mut table.taps);
                }
            }
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

impl AxisRules {
    fn position(&self, out: usize, from: usize, to: usize) -> f64 {
        let (x, n_in, n_out) = (out as f64, from as f64, to as f64);
        match self.coordinate {
            Coordinate::HalfPixel => (x + 0.5) / self.scale - 0.5,
            Coordinate::HalfPixelSymmetric => {
                let adjustment = n_out / (n_in * self.scale);
                let offset = n_in / 2.0 * (1.0 - adjustment);
                offset + (x + 0.5) / self.scale - 0.5
            }
            Coordinate::PytorchHalfPixel if to <= 1 => 0.0,
            Coordinate::PytorchHalfPixel => (x + 0.5) / self.scale - 0.5,
            Coordinate::AlignCorners if to <= 1 => 0.0,
            Coordinate::AlignCorners => x * (n_in - 1.0) / (n_out - 1.0),
            Coordinate::Asymmetric => x / self.scale,
            Coordinate::CropAndResize { start, end } if to <= 1 => 0.5 * (start + end) * (n_in - 1.0),
            Coordinate::CropAndResize { start, end } => {
                start * (n_in - 1.0) + x * (end - start) * (n_in - 1.0) / (n_out - 1.0)
            }
        }
    }

    /// Appends the weighted positions of input coordinate `x`.
    fn taps(&self, x: f64, from: usize, taps: &mut Vec<(usize, f32)>) {
        let last = from as i64 - 1;
        if let Interpolation::Nearest(nearest) = self.interpolation {
            let place = match nearest {
                Nearest::RoundPreferFloor => (x - 0.5).ceil(),
                Nearest::RoundPreferCeil => (x + 0.5).floor(),
                Nearest::Floor => x.floor(),
                Nearest::Ceil => x.ceil(),
            };
            return taps.push(((place as i64).clamp(0, last) as usize, 1.0));
        }
        let shrink = if self.antialias { self.scale.min(1.0) } else { 1.0 };
        let reach = if self.interpolation == Interpolation::Linear { 1.0 } else { 2.0 } / shrink;
        let (low, high) = ((x - reach).floor() as i64 + 1, (x + reach).ceil() as i64 - 1);
        let first = taps.len();
        let mut total = 0.0;
        for place in low..=high {
            let inside = (0..=last).contains(&place);
            let weight = self.filter((place as f64 - x) * shrink);
            if weight == 0.0 || !inside && self.exclude_outside {
                continue;
            }
            total += weight;
            taps.push((place.clamp(0, last) as usize, weight as f32));
        }
        for (_, weight) in &mut taps[first..] {
            *weight = (*weight as f64 / total) as f32;
        }
    }

    fn filter(&self, distance: f64) -> f64 {
        let d = distance.abs();
        match self.interpolation {
            Interpolation::Cubic(a) if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
            Interpolation::Cubic(a) if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
            Interpolation::Cubic(_) => 0.0,
            Interpolation::Linear | Interpolation::Nearest(_) => (1.0 - d).max(0.0),
        }
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

    fn rules(coordinate: Coordinate, interpolation: Interpolation, scale: f64) -> AxisRules {
        AxisRules { coordinate, interpolation, scale, exclude_outside: false, antialias: false, extrapolation: None }
    }

    fn resize(rules: AxisRules, x: &[f32], to: usize) -> Vec<f32> {
        let mut y = vec![f32::NAN; to];
        AxisTable::new(rules, x.len(), to).run(1, x, &mut y);
        y
    }

    fn close(a: &[f32], b: &[f32]) {
        assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
    }

    #[test]
    fn nearest_repeats_neighbours() {
        let nearest = |n| Interpolation::Nearest(n);
        let r = rules(Coordinate::HalfPixel, nearest(Nearest::RoundPreferFloor), 2.0);
        close(&resize(r, &[1.0, 2.0], 4), &[1.0, 1.0, 2.0, 2.0]);
        let r = rules(Coordinate::Asymmetric, nearest(Nearest::Floor), 1.5);
        close(&resize(r, &[1.0, 2.0, 3.0, 4.0], 6), &[1.0, 1.0, 2.0, 3.0, 3.0, 4.0]);
    }

    #[test]
    fn linear_follows_the_onnx_examples() {
        close(
            &resize(rules(Coordinate::HalfPixel, Interpolation::Linear, 2.0), &[1.0, 2.0], 4),
            &[1.0, 1.25, 1.75, 2.0],
        );
        let aligned = rules(Coordinate::AlignCorners, Interpolation::Linear, 2.0);
        close(&resize(aligned, &[1.0, 2.0], 4), &[1.0, 4.0 / 3.0, 5.0 / 3.0, 2.0]);
    }

    #[test]
    fn cubic_reproduces_a_line_inside() {
        let x: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let y = resize(rules(Coordinate::HalfPixel, Interpolation::Cubic(-0.5), 2.0), &x, 16);
        for (i, y) in y.iter().enumerate().take(12).skip(4) {
            assert!((y - ((i as f32 + 0.5) / 2.0 - 0.5)).abs() < 1e-5);
        }
    }

    #[test]
    fn antialiasing_averages_when_shrinking() {
        let mut r = rules(Coordinate::HalfPixel, Interpolation::Linear, 0.5);
        r.antialias = true;
        // A triangle of width 4 around 0.5, its part outside the input showing the edge.
        let y = resize(AxisRules { exclude_outside: true, ..r }, &[1.0, 2.0, 3.0, 4.0], 2);
        close(&y, &[(0.75 + 2.0 * 0.75 + 3.0 * 0.25) / 1.75, (2.0 * 0.25 + 3.0 * 0.75 + 4.0 * 0.75) / 1.75]);
    }

    #[test]
    fn a_crop_shows_its_extrapolation_outside() {
        let mut r = rules(Coordinate::CropAndResize { start: 0.5, end: 1.5 }, Interpolation::Linear, 1.0);
        r.extrapolation = Some(9.0);
        close(&resize(r, &[1.0, 2.0, 3.0], 3), &[2.0, 3.0, 9.0]);
    }

    #[test]
    fn rows_are_mixed_as_vectors() {
        let table = AxisTable::new(rules(Coordinate::HalfPixel, Interpolation::Linear, 2.0), 2, 4);
        let mut y = [0.0; 12];
        table.run(3, &[0.0, 1.0, 2.0, 4.0, 5.0, 6.0], &mut y);
        close(&y, &[0.0, 1.0, 2.0, 1.0, 2.0, 3.0, 3.0, 4.0, 5.0, 4.0, 5.0, 6.0]);
    }
}
