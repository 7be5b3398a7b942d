//! From coefficients to pixels: the inverse transform, upsampling and colours in the integers of libjpeg.

use super::{Block, Component, Decoder, Pixels};

/// A plane of elements.
struct Plane {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

/// The decoded image; `None` when a component had no scan.
pub(super) fn image(decoder: &Decoder) -> Option<Pixels> {
    let (width, height) = (decoder.width, decoder.height);
    let most = |f: fn(&Component) -> usize| decoder.components.iter().map(f).max();
    let (most_h, most_v) = (most(|c| c.h)?, most(|c| c.v)?);
    let mut planes = vec![];
    for c in &decoder.components {
        if most_h % c.h != 0 || most_v % c.v != 0 {
            return None;
        }
        planes.push(upsampled(plane(c)?, most_h / c.h, most_v / c.v));
    }
    let at = |p: &Plane, x: usize, y: usize| p.data[y * p.width + x];
    let mut rgb = Vec::with_capacity(3 * width * height);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        rgb.extend(match &planes[..] {
            [grey] => [at(grey, x, y); 3],
            [a, b, c] if is_rgb(decoder) => [at(a, x, y), at(b, x, y), at(c, x, y)],
            [luma, blue, red] => colour(at(luma, x, y), at(blue, x, y), at(red, x, y)),
            _ => return None,
        });
    }
    Some(Pixels { width, height, rgb })
}

/// Whether the three components are not luminance and two differences of colour.
fn is_rgb(decoder: &Decoder) -> bool {
    let ids: Vec<u8> = decoder.components.iter().map(|c| c.id).collect();
    match (decoder.jfif, decoder.adobe) {
        (true, _) => false,
        (false, Some(transform)) => transform == 0,
        (false, None) => ids == *b"RGB",
    }
}

/// ITU-R BT.601 with 16 bits behind the point.
fn colour(luma: u8, blue: u8, red: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, b, r) = (i32::from(luma), i32::from(blue) - 128, i32::from(red) - 128);
    let limited = |v: i32| v.clamp(0, 255) as u8;
    // 1.402, 0.34414, 0.71414 and 1.772
    let red = y + ((91881 * r + HALF) >> 16);
    let green = y + ((-22554 * b - 46802 * r + HALF) >> 16);
    let blue = y + ((116130 * b + HALF) >> 16);
    [limited(red), limited(green), limited(blue)]
}

/// A component's elements; those outside the image are cut off.
fn plane(c: &Component) -> Option<Plane> {
    let quantisation = c.quantisation.as_ref()?;
    let mut data = vec![0; c.width * c.height];
    for (i, block) in c.blocks.iter().enumerate() {
        let (left, top) = (i % c.columns * 8, i / c.columns * 8);
        if left >= c.width || top >= c.height {
            continue;
        }
        let elements = inverse(block, quantisation);
        for (y, row) in elements.chunks_exact(8).enumerate().take(c.height - top) {
            let n = (c.width - left).min(8);
            data[(top + y) * c.width + left..][..n].copy_from_slice(&row[..n]);
        }
    }
    Some(Plane { width: c.width, height: c.height, data })
}

/// Binary digits behind the point of the transform's factors, and of what is between its two passes.
const FACTOR_BITS: u32 = 13;
const PASS_BITS: u32 = 2;

/// The inverse cosine transform of a block, by columns and then by rows, as elements around 128.
fn inverse(block: &Block, quantisation: &Block) -> [u8; 64] {
    let mut between = [0i64; 64];
    for x in 0..8 {
        let scaled = |at: usize| i64::from(block[at]) * i64::from(quantisation[at]);
        // What an encoder writes is far inside these bounds.
        let column = std::array::from_fn(|y| scaled(y * 8 + x).clamp(-1 << 15, 1 << 15));
        for (y, v) in transform(column).into_iter().enumerate() {
            between[y * 8 + x] = rounded(v, FACTOR_BITS - PASS_BITS);
        }
    }
    let mut out = [0; 64];
    for (to, row) in out.chunks_exact_mut(8).zip(between.chunks_exact(8)) {
        let row = transform(std::array::from_fn(|x| row[x]));
        for (to, v) in to.iter_mut().zip(row) {
            *to = (rounded(v, FACTOR_BITS + PASS_BITS + 3) + 128).clamp(0, 255) as u8;
        }
    }
    out
}

fn rounded(v: i64, bits: u32) -> i64 {
    (v + (1 << (bits - 1))) >> bits
}

/// Eight points, scaled by the square root of 8: C. Loeffler, A. Ligtenberg, G. Moschytz, "Practical fast 1-D DCT algorithms
/// with 11 multiplications", 1989. The factors are rounded to [`FACTOR_BITS`].
fn transform(v: [i64; 8]) -> [i64; 8] {
    let shared = (v[2] + v[6]) * 4433;
    let (a, b) = (shared - v[6] * 15137, shared + v[2] * 6270);
    let (sum, difference) = ((v[0] + v[4]) << FACTOR_BITS, (v[0] - v[4]) << FACTOR_BITS);
    let even = [sum + b, difference + a, difference - a, sum - b];
    let (p, q, r, s) = (v[7] + v[1], v[5] + v[3], v[7] + v[3], v[5] + v[1]);
    let both = (r + s) * 9633;
    let (p, q, r, s) = (p * -7373, q * -20995, r * -16069 + both, s * -3196 + both);
    let odd =
        [v[1] * 12299 + p + s, v[3] * 25172 + q + r, v[5] * 16819 + q + s, v[7] * 2446 + p + r];
    std::array::from_fn(|i| if i < 4 { even[i] + odd[i] } else { even[7 - i] - odd[7 - i] })
}

/// A plane `across` times as wide and `down` times as high. Twice is interpolated, the weights being 3/4 and 1/4, and rounded up
/// and down in turns; else elements are repeated.
fn upsampled(p: Plane, across: usize, down: usize) -> Plane {
    match (across, down) {
        (1, 1) => p,
        (2, 1) if p.width > 2 => by_rows(&p, 1, |p, y| wider(p.row(y), 1, [1, 2])),
        (1, 2) => by_rows(&p, 2, |p, y| {
            let bias = if y.is_multiple_of(2) { 1 } else { 2 };
            taller(p, y).into_iter().map(|v| (v + bias) >> 2).collect()
        }),
        (2, 2) if p.width > 2 => by_rows(&p, 2, |p, y| wider(taller(p, y), 4, [8, 7])),
        _ => by_rows(&p, down, |p, y| {
            p.row(y / down).into_iter().flat_map(|v| std::iter::repeat_n(v, across)).collect()
        }),
    }
}

fn by_rows(p: &Plane, down: usize, row: impl Fn(&Plane, usize) -> Vec<i32>) -> Plane {
    let height = p.height * down;
    let data: Vec<u8> = (0..height).flat_map(|y| row(p, y)).map(|v| v as u8).collect();
    Plane { width: data.len() / height.max(1), height, data }
}

impl Plane {
    fn row(&self, y: usize) -> Vec<i32> {
        self.data[y * self.width..][..self.width].iter().map(|v| i32::from(*v)).collect()
    }
}

/// Four times row `y` of a plane twice as high.
fn taller(p: &Plane, y: usize) -> Vec<i32> {
    let near = y / 2;
    let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(p.height - 1) };
    p.row(near).into_iter().zip(p.row(far)).map(|(near, far)| 3 * near + far).collect()
}

/// A row of `scale` times the elements, at least two, twice as wide; the two biases are added in turns.
fn wider(row: Vec<i32>, scale: i32, [even, odd]: [i32; 2]) -> Vec<i32> {
    let last = row.len() - 1;
    let shift = 2 + scale.trailing_zeros();
    let pair = |i: usize| {
        // The outermost elements have no neighbour.
        let left = if i == 0 { row[0] } else { row[i - 1] };
        let right = if i == last { row[last] } else { row[i + 1] };
        [(3 * row[i] + left + even) >> shift, (3 * row[i] + right + odd) >> shift]
    };
    (0..row.len()).flat_map(pair).collect()
}
