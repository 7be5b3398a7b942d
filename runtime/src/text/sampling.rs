//! Chooses the next token from a model's logits: greedy, or drawn at random after temperature, top-k and top-p.
//!
//! The same settings, seed and logits give the same tokens on every platform: random numbers are Philox's, `exp` is
//! computed in software, sums run in a fixed order, and equal logits are ordered by id.

use std::cmp::Ordering;

use crate::text::{TextError, philox};

/// Candidates sorted at first when looking for a nucleus; it seldom holds more.
const FIRST_SORTED: usize = 256;

/// How to choose a token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 means greedy: the highest logit, the lowest id among equals.
    pub temperature: f32,
    /// Only the k highest logits are candidates.
    pub top_k: Option<usize>,
    /// Only the smallest set of most probable tokens whose probabilities reach p are candidates; applied after top-k.
    pub top_p: Option<f32>,
    /// Selects the sequence of random numbers.
    pub seed: u64,
}

impl Sampling {
    /// Always the highest logit.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: None, seed: 0 }
    }

    fn check(&self) -> Result<(), TextError> {
        let wrong = |setting, found, wanted| Err(TextError::Setting { setting, found, wanted });
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return wrong("temperature", self.temperature.to_string(), "a number of at least 0");
        }
        if self.top_k == Some(0) {
            return wrong("top_k", "0".into(), "at least 1");
        }
        match self.top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => wrong("top_p", p.to_string(), "above 0 and at most 1"),
            _ => Ok(()),
        }
    }
}

#[derive(Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    /// exp((logit - highest) / temperature): a probability up to a common factor.
    weight: f64,
}

/// Chooses one token after another; allocates nothing after it was made for the model's vocabulary.
pub struct Sampler {
    sampling: Sampling,
    draws: u64,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// Checks the settings; `vocab_size`, if known, is the number of logits to expect (more only cost an allocation).
    pub fn new(sampling: Sampling, vocab_size: Option<usize>) -> Result<Self, TextError> {
        sampling.check()?;
        let expected = if sampling.temperature > 0.0 { vocab_size.unwrap_or(0) } else { 0 };
        Ok(Self { sampling, draws: 0, candidates: Vec::with_capacity(expected.min(1 << 20)) })
    }

    /// The id chosen from the logits of one position. -infinity excludes a token; NaN or +infinity is an error.
    pub fn pick(&mut self, logits: &[f32]) -> Result<u32, TextError> {
        let best = highest(logits)?;
        if self.sampling.temperature == 0.0 || self.sampling.top_k == Some(1) {
            return Ok(best as u32);
        }
        self.weigh(logits, logits[best]);
        if let Some(k) = self.sampling.top_k {
            keep_first(&mut self.candidates, k);
        }
        if let Some(p) = self.sampling.top_p.filter(|p| *p < 1.0) {
            keep_nucleus(&mut self.candidates, f64::from(p));
        }
        let id = self.draw();
        self.draws += 1;
        Ok(id)
    }

    /// Fills the candidates, in the order of their ids.
    fn weigh(&mut self, logits: &[f32], highest: f32) {
        let scale = 1.0 / f64::from(self.sampling.temperature);
        self.candidates.clear();
        let possible = logits.iter().enumerate();
        self.candidates.extend(possible.filter(|(_, logit)| logit.is_finite()).map(|(id, &logit)| Candidate {
            id: id as u32,
            logit,
            weight: libm::exp((f64::from(logit) - f64::from(highest)) * scale),
        }));
    }

    /// A candidate drawn with a probability proportional to its weight.
    fn draw(&self) -> u32 {
        let total: f64 = self.candidates.iter().map(|c| c.weight).sum();
        let mark = philox::uniform(self.sampling.seed, self.draws) * total;
        let mut sum = 0.0;
        let mut last = self.candidates[0].id;
        for candidate in self.candidates.iter().filter(|c| c.weight > 0.0) {
            sum += candidate.weight;
            last = candidate.id;
            if mark < sum {
                break;
            }
        }
        last
    }
}

/// Index of the highest logit, the lowest among equals.
fn highest(logits: &[f32]) -> Result<usize, TextError> {
    let mut best = None;
    let mut value = f32::NEG_INFINITY;
    for (position, &logit) in logits.iter().enumerate() {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(TextError::Logit { position, count: logits.len(), value: logit });
        }
        if logit > value {
            best = Some(position);
            value = logit;
        }
    }
    best.ok_or(TextError::NoCandidate { count: logits.len() })
}

/// Highest logit first, equal ones by id.
fn rank(a: &Candidate, b: &Candidate) -> Ordering {
    let by_logit = b.logit.partial_cmp(&a.logit);
    by_logit.expect("candidates are finite").then(a.id.cmp(&b.id))
}

/// Keeps the first `count` candidates by rank, sorted.
fn keep_first(candidates: &mut Vec<Candidate>, count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count - 1, rank);
        candidates.truncate(count);
    }
    candidates.sort_unstable_by(rank);
}

/// Keeps the shortest run of first candidates whose share of the weight is at least `p`, sorted.
fn keep_nucleus(candidates: &mut Vec<Candidate>, p: f64) {
    let goal = p * candidates.iter().map(|c| c.weight).sum::<f64>();
    let mut sorted = FIRST_SORTED;
    loop {
        if sorted < candidates.len() {
            candidates.select_nth_unstable_by(sorted - 1, rank);
        }
        let first = sorted.min(candidates.len());
        candidates[..first].sort_unstable_by(rank);
        let mut sum = 0.0;
        let nucleus = candidates[..first].iter().position(|candidate| {
            sum += candidate.weight;
            sum >= goal
        });
        match nucleus {
            Some(last) => return candidates.truncate(last + 1),
            None if first == candidates.len() => return,
            None => sorted *= 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampling(temperature: f32, top_k: Option<usize>, top_p: Option<f32>) -> Sampling {
        Sampling { temperature, top_k, top_p, seed: 1234 }
    }

    fn picks(sampling: Sampling, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling, Some(logits.len())).unwrap();
        (0..count).map(|_| sampler.pick(logits).unwrap()).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equals() {
        assert_eq!(picks(Sampling::greedy(), &[1.0, 3.0, -2.0, 3.0], 2), [1, 1]);
        assert_eq!(picks(Sampling::greedy(), &[-0.0, 0.0], 1), [0]);
    }

    #[test]
    fn a_seed_gives_these_tokens_on_every_platform() {
        let logits: Vec<f32> = (0..50).map(|i| ((i * 37 % 50) as f32) * 0.1).collect();
        let all = picks(sampling(0.8, None, None), &logits, 12);
        assert_eq!(all, PINNED, "the tokens of a seed are a promise");
        assert_eq!(all, picks(sampling(0.8, None, None), &logits, 12));
        let other = Sampling { seed: 99, ..sampling(0.8, None, None) };
        assert_ne!(all, picks(other, &logits, 12));
    }
    const PINNED: [u32; 12] = [39, 4, 47, 5, 43, 8, 31, 20, 8, 4, 28, 8];

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, f32::NEG_INFINITY];
        let count = 20_000;
        let ids = picks(sampling(2.0, None, None), &logits, count);
        let total: f64 = (0..3).map(|i| (f64::from(i) / 2.0).exp()).sum();
        for id in 0..3u32 {
            let seen = ids.iter().filter(|&&i| i == id).count() as f64 / count as f64;
            let wanted = (f64::from(id) / 2.0).exp() / total;
            assert!((seen - wanted).abs() < 0.015, "{id}: {seen} against {wanted}");
        }
        assert!(!ids.contains(&3));
    }

    #[test]
    fn top_k_of_equals_keeps_the_lowest_ids() {
        let ids = picks(sampling(1.0, Some(2), None), &[5.0, 5.0, 5.0, 5.0], 200);
        assert!(ids.iter().all(|&id| id < 2) && ids.contains(&0) && ids.contains(&1));
    }

    #[test]
    fn top_p_keeps_the_token_that_crosses_the_mark() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        let ids = picks(sampling(1.0, None, Some(0.6)), &logits, 300);
        assert!(ids.contains(&1) && !ids.contains(&2));
        assert!(picks(sampling(1.0, None, Some(0.4)), &logits, 50).iter().all(|&id| id == 0));
    }

    #[test]
    fn a_wide_nucleus_in_a_large_vocabulary_is_found() {
        let logits: Vec<f32> = (0..5000).map(|i| (i % 7) as f32 * 1e-3).collect();
        let ids = picks(sampling(1.0, None, Some(0.9)), &logits, 2000);
        assert!(ids.iter().any(|&id| id > 4000));
    }

    #[test]
    fn nan_and_infinity_are_errors_that_name_the_position() {
        for value in [f32::NAN, f32::INFINITY] {
            let mut sampler = Sampler::new(sampling(1.0, None, None), None).unwrap();
            let message = sampler.pick(&[0.0, value, f32::NAN]).unwrap_err().to_string();
            assert!(message.starts_with("logit 1 of 3 is "), "{message}");
        }
        for nothing in [&[][..], &[f32::NEG_INFINITY; 3]] {
            let mut sampler = Sampler::new(Sampling::greedy(), None).unwrap();
            assert!(matches!(sampler.pick(nothing), Err(TextError::NoCandidate { .. })));
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (settings, name) in [
            (sampling(-1.0, None, None), "temperature"),
            (sampling(f32::NAN, None, None), "temperature"),
            (sampling(1.0, Some(0), None), "top_k"),
            (sampling(1.0, None, Some(0.0)), "top_p"),
            (sampling(1.0, None, Some(1.5)), "top_p"),
        ] {
            let message = Sampler::new(settings, None).err().unwrap().to_string();
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn an_extreme_temperature_still_draws() {
        let logits = [-3.0e38f32, 3.0e38, 0.0];
        assert_eq!(picks(sampling(f32::MIN_POSITIVE, None, None), &logits, 3), [1; 3]);
        picks(sampling(f32::MAX, Some(2), Some(0.5)), &logits, 3);
    }

    proptest! {
        #[test]
        fn picks_lie_within_top_k_and_top_p(
            logits in prop::collection::vec(-9.0f32..9.0, 1..600),
            k in 1usize..20,
            p in 0.05f32..1.0,
        ) {
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
            order.truncate(k);
            let total: f64 = order.iter().map(|&i| f64::from(logits[i as usize]).exp()).sum();
            for id in picks(sampling(1.0, Some(k), Some(p)), &logits, 8) {
                let place = order.iter().position(|&i| i == id).expect("within top k");
                let before: f64 = order[..place].iter().map(|&i| f64::from(logits[i as usize]).exp()).sum();
                prop_assert!(before / total < f64::from(p) + 1e-9);
            }
        }

        #[test]
        fn a_sampler_allocates_only_once(logits in prop::collection::vec(-9.0f32..9.0, 300..600)) {
            let mut sampler = Sampler::new(sampling(1.0, Some(40), Some(0.9)), Some(logits.len())).unwrap();
            let before = sampler.candidates.capacity();
            for _ in 0..4 {
                sampler.pick(&logits).unwrap();
            }
            prop_assert_eq!(before, sampler.candidates.capacity());
        }
    }
}
