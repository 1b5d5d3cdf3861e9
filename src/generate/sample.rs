//! From the logits of one position to one sampled id and its two log-probabilities.
//!
//! Processors run in vLLM's order: logit bias, penalties, grammar, temperature, min-p, top-k, top-p. (transformers applies min-p last, which
//! differs only where it is combined with top-k or top-p.) Ids that survive are drawn by inverting their cumulative distribution in
//! the order of the ids, so that one uniform number decides.

use std::collections::BTreeMap;

use llguidance::toktrie::SimpleVob;

use super::grammar::{Grammar, Progress};
use super::{Request, key::Stream};

/// How many of the likeliest ids are sorted first; nearly every top-p ends among them.
const SORTED_FIRST: usize = 512;

/// How to draw the next id.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest id (the smallest of equals).
    pub temperature: f64,
    /// Keep the fewest likeliest ids whose probabilities come to this much (Holtzman et al. 2020, arXiv 1904.09751); 1 keeps all.
    pub top_p: f64,
    /// Keep this many likeliest ids; 0 keeps all.
    pub top_k: usize,
    /// Keep ids at least this share as likely as the likeliest (Nguyen et al. 2024, arXiv 2407.01082); 0 keeps all.
    pub min_p: f64,
    /// Divides positive and multiplies negative logits of ids in prompt or response (Keskar et al. 2019, arXiv 1909.05858); 1 does nothing.
    pub repetition_penalty: f64,
    /// Taken from the logit of every id that is in the response.
    pub presence_penalty: f64,
    /// Taken from an id's logit for each time that it is in the response.
    pub frequency_penalty: f64,
    /// Added to the logits of these ids; negative infinity forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Most ids to sample, at least 1; fewer where the context ends first.
    pub max_tokens: usize,
    /// Ids that end the response, themselves included in it.
    pub stop_ids: Vec<u32>,
    /// How many of the likeliest ids to report beside each sampled one.
    pub logprobs: usize,
    /// What the response has to be; ids that it does not allow are not drawn.
    pub grammar: Option<Grammar>,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            max_tokens: 256,
            stop_ids: Vec::new(),
            logprobs: 0,
            grammar: None,
        }
    }
}

impl Sampling {
    /// Says which value cannot be, for a vocabulary of this size.
    pub fn check(&self, vocabulary: usize) -> Result<(), String> {
        let numbers = [
            ("temperature", self.temperature, (0.0..=100.0).contains(&self.temperature), "from 0 to 100"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
                "above 0",
            ),
            ("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), "finite"),
            ("frequency_penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), "finite"),
        ];
        if let Some((name, value, _, range)) = numbers.iter().find(|(_, _, right, _)| !right) {
            return Err(format!("`{name}` is {value}; it has to be {range}"));
        }
        if self.max_tokens == 0 {
            return Err("`max_tokens` is 0; it has to be at least 1".to_owned());
        }
        for (id, bias) in &self.logit_bias {
            if *id as usize >= vocabulary {
                return Err(format!("`logit_bias` names the id {id}, but the vocabulary ends at {vocabulary}"));
            }
            if bias.is_nan() || *bias == f32::INFINITY {
                return Err(format!("`logit_bias` of the id {id} is {bias}; it has to be a number below infinity"));
            }
        }
        Ok(())
    }

    fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Whether ids are drawn from the policy at the temperature as it is.
    fn is_plain(&self) -> bool {
        !self.has_penalties()
            && self.logit_bias.is_empty()
            && self.top_p >= 1.0
            && self.top_k == 0
            && self.min_p == 0.0
            && self.grammar.is_none()
    }
}

/// One sampled id. The fields mean what they mean in `Event::Token`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    pub id: u32,
    pub behaviour_logprob: f32,
    pub sampled_logprob: f32,
    pub top: Vec<(u32, f32)>,
}

/// Draws the ids of one request, one after the other.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    stream: Stream,
    /// Ids sampled so far.
    drawn: usize,
    /// How often each id is in the response; ids of the prompt stand with 0. Empty where there are no penalties.
    seen: BTreeMap<u32, u32>,
    /// How far the response has come in its grammar.
    progress: Option<Progress>,
}

impl Sampler {
    pub fn new(request: &Request) -> Sampler {
        let sampling = request.sampling.clone();
        let seen = match sampling.has_penalties() {
            true => request.prompt.iter().map(|id| (*id, 0)).collect(),
            false => BTreeMap::new(),
        };
        let progress = sampling.grammar.as_ref().map(Grammar::begin);
        Sampler { stream: request.key.stream(&request.prompt), sampling, drawn: 0, seen, progress }
    }

    /// The next id.
    ///
    /// * `logits`: `[V]`, of the position before it.
    ///
    /// Fails where the logits hold NaN or positive infinity, every id is forbidden, or the grammar is too complex at this place.
    pub fn next(&mut self, logits: &[f32]) -> Result<Sampled, String> {
        let allowed = self.progress.as_mut().map(Progress::allowed).transpose()?;
        let sampled = self.draw(logits, allowed.as_ref())?;
        if let Some(progress) = &mut self.progress {
            progress.accept(sampled.id)?;
        }
        self.drawn += 1;
        if self.sampling.has_penalties() {
            *self.seen.entry(sampled.id).or_insert(0) += 1;
        }
        Ok(sampled)
    }

    /// * `allowed`: ids that the grammar allows; `None` where there is no grammar.
    fn draw(&self, logits: &[f32], allowed: Option<&SimpleVob>) -> Result<Sampled, String> {
        let sampling = &self.sampling;
        let temperature = if sampling.temperature > 0.0 { sampling.temperature } else { 1.0 };
        let policy = Softmax::new(logits, temperature).ok_or("the model's logits are not numbers")?;
        let top = policy.top(logits, sampling.logprobs);
        let (id, sampled_logprob) = match (sampling.temperature > 0.0, sampling.is_plain()) {
            (true, true) => {
                let id = policy.invert(self.stream.uniform(self.drawn));
                (id, policy.logprob(logits[id as usize]))
            }
            (true, false) => self.draw_processed(&self.processed(logits, allowed), temperature)?,
            (false, true) => (policy.likeliest, 0.0),
            (false, false) => {
                let likeliest = Softmax::new(&self.processed(logits, allowed), 1.0).ok_or("every id is forbidden")?.likeliest;
                (likeliest, 0.0)
            }
        };
        Ok(Sampled {
            id,
            behaviour_logprob: policy.logprob(logits[id as usize]) as f32,
            sampled_logprob: sampled_logprob as f32,
            top,
        })
    }

    /// The logits after bias, penalties and grammar.
    fn processed(&self, logits: &[f32], allowed: Option<&SimpleVob>) -> Vec<f32> {
        let mut logits = self.penalised(logits);
        if let Some(allowed) = allowed {
            // The model's vocabulary may be padded to more ids than the tokenizer has.
            let is_allowed = |id: usize| id < allowed.len() && allowed.get(id);
            logits.iter_mut().enumerate().filter(|(id, _)| !is_allowed(*id)).for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
        }
        logits
    }

    /// The logits after bias and penalties.
    fn penalised(&self, logits: &[f32]) -> Vec<f32> {
        let sampling = &self.sampling;
        let mut logits = logits.to_vec();
        for (id, bias) in &sampling.logit_bias {
            logits[*id as usize] += bias;
        }
        for (id, count) in &self.seen {
            let logit = &mut logits[*id as usize];
            let mut value = f64::from(*logit);
            value = if value > 0.0 { value / sampling.repetition_penalty } else { value * sampling.repetition_penalty };
            if *count > 0 {
                value -= sampling.presence_penalty + f64::from(*count) * sampling.frequency_penalty;
            }
            *logit = value as f32;
        }
        logits
    }

    /// An id out of those that min-p, top-k and top-p leave, with its log-probability among them.
    fn draw_processed(&self, logits: &[f32], temperature: f64) -> Result<(u32, f64), String> {
        let all = Softmax::new(logits, temperature).ok_or("every id is forbidden")?;
        let kept = self.keep(logits, &all);
        let weights: Vec<f64> = kept.iter().map(|id| all.weight(*id)).collect();
        let total: f64 = weights.iter().sum();
        let target = self.stream.uniform(self.drawn) * total;
        let chosen = invert(weights.iter().copied(), target);
        Ok((kept[chosen], (weights[chosen] / total).ln()))
    }

    /// Ids that survive, in their own order; at least one.
    fn keep(&self, logits: &[f32], all: &Softmax) -> Vec<u32> {
        let sampling = &self.sampling;
        let mut ids: Vec<u32> = (0..logits.len() as u32).filter(|id| logits[*id as usize] > f32::NEG_INFINITY).collect();
        if sampling.min_p > 0.0 {
            // The likeliest has weight 1.
            ids.retain(|id| all.weight(*id) >= sampling.min_p);
        }
        let likelier = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if sampling.top_k > 0 && sampling.top_k < ids.len() {
            ids.select_nth_unstable_by(sampling.top_k - 1, likelier);
            ids.truncate(sampling.top_k);
        }
        if sampling.top_p < 1.0 {
            let total: f64 = ids.iter().map(|id| all.weight(*id)).sum();
            let wanted = sampling.top_p * total;
            if ids.len() > SORTED_FIRST {
                ids.select_nth_unstable_by(SORTED_FIRST - 1, likelier);
            }
            let first = ids.len().min(SORTED_FIRST);
            ids[..first].sort_unstable_by(likelier);
            let enough = |ids: &[u32]| {
                let mut sum = 0.0;
                ids.iter().position(|id| {
                    sum += all.weight(*id);
                    sum >= wanted
                })
            };
            let last = enough(&ids[..first]).or_else(|| {
                ids.sort_unstable_by(likelier);
                enough(&ids)
            });
            ids.truncate(last.map_or(ids.len(), |last| last + 1));
        }
        ids.sort_unstable();
        ids
    }
}

/// A softmax over logits at a temperature, in f64.
struct Softmax {
    likeliest: u32,
    max: f64,
    temperature: f64,
    /// Of each id, relative to the likeliest's, from 0 to 1.
    weights: Vec<f64>,
    total: f64,
}

impl Softmax {
    /// `None` where a logit is NaN or positive infinity, or all are negative infinity.
    fn new(logits: &[f32], temperature: f64) -> Option<Softmax> {
        let mut likeliest = 0;
        let mut max = f32::NEG_INFINITY;
        for (id, logit) in logits.iter().enumerate() {
            if *logit > max {
                (likeliest, max) = (id, *logit);
            } else if logit.is_nan() {
                return None;
            }
        }
        if !max.is_finite() {
            return None;
        }
        let max = f64::from(max);
        let weights: Vec<f64> = logits.iter().map(|logit| ((f64::from(*logit) - max) / temperature).exp()).collect();
        let total = weights.iter().sum();
        Some(Softmax { likeliest: likeliest as u32, max, temperature, weights, total })
    }

    fn weight(&self, id: u32) -> f64 {
        self.weights[id as usize]
    }

    fn logprob(&self, logit: f32) -> f64 {
        (f64::from(logit) - self.max) / self.temperature - self.total.ln()
    }

    /// The id at this place, from 0 to 1, of the cumulative distribution.
    fn invert(&self, place: f64) -> u32 {
        invert(self.weights.iter().copied(), place * self.total) as u32
    }

    /// The likeliest ids with their log-probabilities, most likely first.
    fn top(&self, logits: &[f32], count: usize) -> Vec<(u32, f32)> {
        let count = count.min(logits.len());
        if count == 0 {
            return Vec::new();
        }
        let likelier = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        ids.select_nth_unstable_by(count - 1, likelier);
        ids.truncate(count);
        ids.sort_unstable_by(likelier);
        ids.into_iter().map(|id| (id, self.logprob(logits[id as usize]) as f32)).collect()
    }
}

/// Index of the first weight with which the running sum passes the target; the last positive one where rounding kept it from doing so.
fn invert(weights: impl Iterator<Item = f64>, target: f64) -> usize {
    let mut sum = 0.0;
    let mut last = 0;
    for (index, weight) in weights.enumerate() {
        if weight > 0.0 {
            last = index;
        }
        sum += weight;
        if sum > target {
            return index;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Key;

    fn sampler(sampling: Sampling, sample: u64, prompt: &[u32]) -> Sampler {
        Sampler::new(&Request { prompt: prompt.to_vec(), sampling, key: Key { sample, ..Key::default() } })
    }

    /// Logits of these probabilities.
    fn logits(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    fn close(left: f32, right: f64) {
        assert!((f64::from(left) - right).abs() < 1e-6, "{left} is not {right}");
    }

    /// Chi-square of what 4,000 keys draw against what they should.
    fn chi_square(sampling: &Sampling, probabilities: &[f64], expected: &[f64]) -> f64 {
        let draws = 4000;
        let mut counts = vec![0.0; expected.len()];
        for sample in 0..draws {
            let sampled = sampler(sampling.clone(), sample, &[1]).next(&logits(probabilities)).expect("draws");
            counts[sampled.id as usize] += 1.0;
        }
        let terms = counts.iter().zip(expected).map(|(count, p)| match *p {
            0.0 => {
                assert_eq!(*count, 0.0);
                0.0
            }
            p => (count - p * draws as f64).powi(2) / (p * draws as f64),
        });
        terms.sum()
    }

    #[test]
    fn draws_follow_the_distribution() {
        let half = [0.5, 0.25, 0.15, 0.1];
        // At temperature 2 the probabilities are proportional to their square roots: sum 1.910626.
        let flat = [0.370095, 0.261697, 0.202710, 0.165511];
        let top_p = Sampling { top_p: 0.7, ..Sampling::default() };
        let min_p = Sampling { min_p: 0.25, ..Sampling::default() };
        let top_k = Sampling { top_k: 3, ..Sampling::default() };
        let cases = [
            (Sampling::default(), half),
            (Sampling { temperature: 2.0, ..Sampling::default() }, flat),
            (top_p, [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]),
            (min_p, [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0.0]),
            (top_k, [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0.0]),
        ];
        for (sampling, expected) in cases {
            // 16.27 is the 0.999 quantile of chi-square with three degrees of freedom.
            let statistic = chi_square(&sampling, &half, &expected);
            assert!(statistic < 16.27, "{sampling:?}: {statistic}");
        }
    }

    #[test]
    fn both_logprobs_by_hand() {
        let p = [0.5, 0.25, 0.15, 0.1];
        let plain = sampler(Sampling::default(), 0, &[1]).next(&logits(&p)).expect("draws");
        close(plain.behaviour_logprob, p[plain.id as usize].ln());
        assert_eq!(plain.behaviour_logprob, plain.sampled_logprob);

        let kept =
            sampler(Sampling { top_k: 2, temperature: 0.5, ..Sampling::default() }, 0, &[1]).next(&logits(&p)).expect("draws");
        // Squares at temperature 0.5: 0.25, 0.0625, 0.0225, 0.01; they come to 0.345, the first two to 0.3125.
        let square = p[kept.id as usize].powi(2);
        close(kept.behaviour_logprob, (square / 0.345).ln());
        close(kept.sampled_logprob, (square / 0.3125).ln());

        let greedy =
            sampler(Sampling { temperature: 0.0, logprobs: 2, ..Sampling::default() }, 0, &[1]).next(&logits(&p)).expect("draws");
        assert_eq!(greedy.id, 0);
        close(greedy.behaviour_logprob, 0.5f64.ln());
        assert_eq!(greedy.sampled_logprob, 0.0);
        assert_eq!(greedy.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 1]);
        close(greedy.top[1].1, 0.25f64.ln());
    }

    #[test]
    fn penalties_count_as_they_say() {
        // Prompt: 0. Response so far: 2, 2, 3.
        let sampling =
            Sampling { repetition_penalty: 2.0, presence_penalty: 0.25, frequency_penalty: 0.5, ..Sampling::default() };
        let mut sampler = sampler(sampling, 0, &[0]);
        sampler.seen.extend([(2, 2), (3, 1)]);
        // 0: 4 / 2. 1: untouched. 2: -1 * 2 - 0.25 - 2 * 0.5. 3: 6 / 2 - 0.25 - 0.5.
        assert_eq!(sampler.penalised(&[4.0, 4.0, -1.0, 6.0]), [2.0, 4.0, -3.25, 2.25]);
    }

    #[test]
    fn top_k_comes_before_top_p() {
        // Of the three that top-k leaves (0.4, 0.3, 0.2 of 0.9), the first two come to 0.777: top-p 0.75 ends there. Of all four they
        // would come to 0.7, and a third would stay.
        let sampler = sampler(Sampling { top_k: 3, top_p: 0.75, ..Sampling::default() }, 0, &[1]);
        let logits = logits(&[0.1, 0.2, 0.3, 0.4]);
        let all = Softmax::new(&logits, 1.0).expect("numbers");
        assert_eq!(sampler.keep(&logits, &all), [2, 3]);
    }

    #[test]
    fn processors_leave_what_those_of_transformers_leave() {
        for case in crate::generate::tests::processed() {
            let setting = |name: &str, otherwise: f64| case.settings.get(name).copied().unwrap_or(otherwise);
            let sampling = Sampling {
                temperature: setting("temperature", 1.0),
                top_k: setting("top_k", 0.0) as usize,
                top_p: setting("top_p", 1.0),
                min_p: setting("min_p", 0.0),
                repetition_penalty: setting("repetition_penalty", 1.0),
                ..Sampling::default()
            };
            let sampler = sampler(sampling.clone(), 0, &case.seen);
            let logits = sampler.penalised(&case.logits);
            let all = Softmax::new(&logits, sampling.temperature).expect("numbers");
            let kept = sampler.keep(&logits, &all);
            let expected: Vec<u32> = (0..40).filter(|id| case.logprobs[*id as usize].is_some()).collect();
            assert_eq!(kept, expected, "{:?}", case.settings);
            let total: f64 = kept.iter().map(|id| all.weight(*id)).sum();
            for id in kept {
                let logprob = (all.weight(id) / total).ln();
                let expected = case.logprobs[id as usize].expect("kept");
                assert!((logprob - expected).abs() < 1e-5, "{:?}: {logprob} is not {expected}", case.settings);
            }
        }
    }

    #[test]
    fn a_flat_distribution_wider_than_the_first_sort() {
        let sampler = sampler(Sampling { top_p: 0.5, ..Sampling::default() }, 0, &[1]);
        let flat = vec![0.0; 4 * SORTED_FIRST];
        let all = Softmax::new(&flat, 1.0).expect("numbers");
        assert_eq!(sampler.keep(&flat, &all), (0..2 * SORTED_FIRST as u32).collect::<Vec<_>>());
    }

    #[test]
    fn same_key_same_tokens() {
        let p = logits(&[0.2; 5]);
        let draw = |sample| {
            let mut sampler = sampler(Sampling::default(), sample, &[1, 2]);
            (0..40).map(|_| sampler.next(&p).expect("draws").id).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn what_is_no_distribution_is_said() {
        let draw = |sampling, logits: &[f32]| sampler(sampling, 0, &[1]).next(logits);
        assert!(draw(Sampling::default(), &[0.0, f32::NAN]).is_err());
        assert!(draw(Sampling::default(), &[0.0, f32::INFINITY]).is_err());
        let forbid =
            |ids: &[u32]| Sampling { logit_bias: ids.iter().map(|id| (*id, f32::NEG_INFINITY)).collect(), ..Sampling::default() };
        assert!(draw(forbid(&[0, 1]), &[0.0, 0.0]).is_err());
        assert_eq!(draw(forbid(&[0]), &[9.0, 0.0]).expect("draws").id, 1);
        assert!(Sampling { top_p: 0.0, ..Sampling::default() }.check(4).expect_err("refused").contains("`top_p` is 0"));
        assert!(Sampling { logit_bias: vec![(4, 1.0)], ..Sampling::default() }.check(4).is_err());
    }
}
