//! The largest or smallest elements of an axis with their indices.

use std::cmp::Ordering;

/// Which elements are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The largest first; a NaN is larger than all.
    Largest,
    /// The smallest first; a NaN is larger than all.
    Smallest,
}

/// Chooses `k` elements along the middle axis of blocks `[n, inner]`, in order, equal ones by lower index first.
///
/// `x` holds whole blocks, `values` and `indices` whole blocks `[k, inner]` with `k <= n`; `scratch` holds `n` elements.
#[allow(clippy::too_many_arguments, reason = "two outputs and scratch")]
pub fn top_k<T: Copy + PartialOrd>(
    order: Order,
    k: usize,
    n: usize,
    inner: usize,
    x: &[T],
    values: &mut [T],
    indices: &mut [i64],
    scratch: &mut [u32],
) {
    if k * inner == 0 {
        return;
    }
    let is_nan = |x: T| x.partial_cmp(&x).is_none();
    let larger = |a: T, b: T| a.partial_cmp(&b).unwrap_or_else(|| is_nan(a).cmp(&is_nan(b)));
    let blocks = values.chunks_exact_mut(k * inner).zip(indices.chunks_exact_mut(k * inner));
    for (x, (values, indices)) in x.chunks_exact(n * inner).zip(blocks) {
        for i in 0..inner {
            let at = |place: u32| x[place as usize * inner + i];
            let before = |a: &u32, b: &u32| -> Ordering {
                let by_value = match order {
                    Order::Largest => larger(at(*b), at(*a)),
                    Order::Smallest => larger(at(*a), at(*b)),
                };
                by_value.then(a.cmp(b))
            };
            let places = &mut scratch[..n];
            for (place, p) in places.iter_mut().enumerate() {
                *p = place as u32;
            }
            if k < n {
                places.select_nth_unstable_by(k, before);
            }
            places[..k].sort_unstable_by(before);
            for (j, &place) in places[..k].iter().enumerate() {
                values[j * inner + i] = at(place);
                indices[j * inner + i] = place as i64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_first_k_of_a_stable_sort(n in 1usize..40, inner in 1usize..4, part in 0usize..=40, seed in prop::collection::vec(
            prop_oneof![8 => (-5i32..5).prop_map(|x| x as f32), 1 => Just(f32::NAN), 1 => Just(f32::INFINITY)], 83)) {
            let k = part.min(n);
            let x: Vec<f32> = (0..2 * n * inner).map(|i| seed[i * 7 % 83]).collect();
            for order in [Order::Largest, Order::Smallest] {
                let (mut values, mut indices) = (vec![0f32; 2 * k * inner], vec![0i64; 2 * k * inner]);
                top_k(order, k, n, inner, &x, &mut values, &mut indices, &mut vec![0; n]);
                for o in 0..2 {
                    for i in 0..inner {
                        let mut sorted: Vec<usize> = (0..n).collect();
                        let key = |p: usize| x[(o * n + p) * inner + i];
                        let rank = |p: usize| if key(p).is_nan() { f64::INFINITY } else { (key(p) as f64).min(1e300) };
                        sorted.sort_by(|&a, &b| {
                            let by = rank(a).partial_cmp(&rank(b)).unwrap();
                            if order == Order::Largest { by.reverse() } else { by }
                        });
                        for (j, &place) in sorted[..k].iter().enumerate() {
                            let at = (o * k + j) * inner + i;
                            prop_assert_eq!(indices[at], place as i64);
                            prop_assert!(values[at] == key(place) || key(place).is_nan());
                        }
                    }
                }
            }
        }
    }
}
