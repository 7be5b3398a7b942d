//! Routing of mixtures of experts: scores, choice and weights of one row, and the sorting of pairs by expert.

use super::math;
use super::vectorise::vectorise;

/// What a router makes of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// The softmax over all experts.
    Softmax,
    /// The sigmoid of each.
    Sigmoid,
    /// The logits choose, their softmax over the chosen weighs.
    Chosen,
}

/// How experts are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Router {
    /// How many of each row.
    pub k: usize,
    /// The score.
    pub score: Score,
    /// Whether weights are divided by their sum.
    pub renormalise: bool,
    /// Added to that sum.
    pub eps: f32,
    /// Factor of the weights.
    pub scale: f32,
}

vectorise! {
    fn softmax_in_place<FMA>(x: &mut [f32]) {
        let mut largest = f32::NEG_INFINITY;
        for x in x.iter() {
            // A NaN stays the largest.
            largest = if *x > largest || x.is_nan() { *x } else { largest };
        }
        let mut sum = 0.0;
        for x in x.iter_mut() {
            *x = math::exp::<FMA>(*x - largest);
            sum += *x;
        }
        for x in x.iter_mut() {
            *x /= sum;
        }
    }

    fn sigmoid_in_place<FMA>(x: &mut [f32]) {
        for x in x.iter_mut() {
            *x = math::sigmoid::<FMA>(*x);
        }
    }
}

impl Router {
    /// Chooses for rows of `experts` logits; `bias` is empty or one per expert, `scratch` holds `2 * experts` elements.
    pub fn route(
        &self,
        experts: usize,
        logits: &[f32],
        bias: &[f32],
        ids: &mut [i32],
        weights: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (scores, keys) = scratch[..2 * experts].split_at_mut(experts);
        let rows = ids.chunks_exact_mut(self.k).zip(weights.chunks_exact_mut(self.k));
        for (row, (ids, weights)) in logits.chunks_exact(experts).zip(rows) {
            scores.copy_from_slice(row);
            match self.score {
                Score::Softmax => softmax_in_place(scores),
                Score::Sigmoid => sigmoid_in_place(scores),
                Score::Chosen => {}
            }
            keys.copy_from_slice(scores);
            keys.iter_mut().zip(bias).for_each(|(key, bias)| *key += bias);
            choose(keys, ids);
            weights.iter_mut().zip(ids.iter()).for_each(|(w, e)| *w = scores[*e as usize]);
            if self.score == Score::Chosen {
                softmax_in_place(weights);
            }
            if self.renormalise {
                let sum = weights.iter().sum::<f32>() + self.eps;
                weights.iter_mut().for_each(|w| *w /= sum);
            }
            weights.iter_mut().for_each(|w| *w *= self.scale);
        }
    }
}

/// The positions of the largest keys, in order; of equal ones the lower first, NaN before all numbers.
fn choose(keys: &[f32], ids: &mut [i32]) {
    // Insertion into the few kept so far: `keys[a]` goes before `keys[b]` only when it is surely larger.
    let before = |a: f32, b: f32| a > b || a.is_nan() && !b.is_nan();
    let k = ids.len();
    let mut kept = 0;
    for (e, key) in keys.iter().enumerate() {
        if kept == k && !before(*key, keys[ids[k - 1] as usize]) {
            continue;
        }
        let at = ids[..kept].iter().position(|i| before(*key, keys[*i as usize])).unwrap_or(kept);
        kept = (kept + 1).min(k);
        ids.copy_within(at..kept - 1, at + 1);
        ids[at] = e as i32;
    }
}

/// Sorts pairs by expert: `rows` are the positions of `ids`, those of expert `e` in `offsets[e]..offsets[e + 1]`.
///
/// An id may count from the end. Fails with the first one outside the experts.
pub fn sort_by_expert<I: Copy + Into<i64>>(ids: &[I], rows: &mut [i32], offsets: &mut [i32]) -> Result<(), i64> {
    let experts = offsets.len() - 1;
    let expert = |id: I| -> Result<usize, i64> {
        let id: i64 = id.into();
        let at = if id < 0 { id + experts as i64 } else { id };
        usize::try_from(at).ok().filter(|e| *e < experts).ok_or(id)
    };
    offsets.fill(0);
    for id in ids {
        offsets[expert(*id)? + 1] += 1;
    }
    (0..experts).for_each(|e| offsets[e + 1] += offsets[e]);
    // Each start moves to its end while it is filled, which is the next one's start.
    for (pair, id) in ids.iter().enumerate() {
        let next = &mut offsets[expert(*id)?];
        rows[*next as usize] = pair as i32;
        *next += 1;
    }
    offsets.copy_within(0..experts, 1);
    offsets[0] = 0;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_are_chosen_in_order_and_nan_first() {
        let mut ids = [0; 3];
        choose(&[1.0, 2.0, 2.0, 1.0], &mut ids);
        assert_eq!(ids, [1, 2, 0]);
        choose(&[1.0, f32::NAN, 2.0, f32::NAN], &mut ids);
        assert_eq!(ids, [1, 3, 2]);
        let mut all = [0; 2];
        choose(&[-0.0, 0.0], &mut all);
        assert_eq!(all, [0, 1]);
    }

    #[test]
    fn pairs_of_an_expert_keep_their_order() {
        let (mut rows, mut offsets) = ([0; 5], [0; 4]);
        sort_by_expert(&[2i32, 0, -1, 0, 2], &mut rows, &mut offsets).unwrap();
        assert_eq!((rows, offsets), ([1, 3, 0, 2, 4], [0, 2, 2, 5]));
        assert_eq!(sort_by_expert(&[3i64], &mut rows, &mut offsets), Err(3));
        sort_by_expert::<i32>(&[], &mut [], &mut offsets).unwrap();
        assert_eq!(offsets, [0; 4]);
    }
}
