//! Random numbers that depend on what is asked and never on when: a counter-based generator for every request.
//!
//! The key of a request is hashed with BLAKE3 into the key of a ChaCha generator, and the index of the token is its block counter
//! (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). So token 17 of a request draws the same number at any
//! concurrency, after a retry and after a resume.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;

/// Words of a ChaCha block; each token has a block of its own.
const BLOCK_WORDS: u128 = 16;

/// What tells the random numbers of one request from those of every other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Key {
    /// The run's seed.
    pub seed: u64,
    /// Iteration of the loop, so that the same task is sampled anew in each.
    pub iteration: u64,
    /// Name of the task.
    pub task: String,
    /// Which of the task's samples.
    pub sample: u64,
    /// Calls with the very same prompt ids that this rollout made before.
    pub repeat: u64,
    /// Which of the `n` choices of one call.
    pub choice: u64,
}

impl Key {
    /// The generator of a request with this key and these prompt ids.
    pub fn stream(&self, prompt: &[u32]) -> Stream {
        let mut hasher = blake3::Hasher::new_derive_key("fulgurite 2026 generate request");
        for number in [self.seed, self.iteration, self.sample, self.repeat, self.choice, self.task.len() as u64] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(self.task.as_bytes());
        for id in prompt {
            hasher.update(&id.to_le_bytes());
        }
        Stream { key: *hasher.finalize().as_bytes() }
    }
}

/// The random numbers of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    key: [u8; 32],
}

impl Stream {
    /// The number that the request's token with this index is drawn with: uniform in [0, 1), with 53 random bits.
    pub fn uniform(&self, token: usize) -> f64 {
        let mut generator = ChaCha12Rng::from_seed(self.key);
        generator.set_word_pos(token as u128 * BLOCK_WORDS);
        (generator.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A name of 24 lower-case letters and digits for the thing with this index, such as a tool call of the response: the same on every
    /// run, and different for every request.
    pub fn name(&self, index: usize) -> String {
        const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(index as u64).to_le_bytes());
        let mut bytes = [0u8; 24];
        hasher.finalize_xof().fill(&mut bytes);
        bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_key_counts() {
        let base = Key { seed: 1, iteration: 2, task: "a".into(), sample: 3, repeat: 0, choice: 0 };
        let prompt = [5, 6];
        let others = [
            (Key { seed: 2, ..base.clone() }, vec![5, 6]),
            (Key { iteration: 3, ..base.clone() }, vec![5, 6]),
            (Key { task: "b".into(), ..base.clone() }, vec![5, 6]),
            (Key { sample: 4, ..base.clone() }, vec![5, 6]),
            (Key { repeat: 1, ..base.clone() }, vec![5, 6]),
            (Key { choice: 1, ..base.clone() }, vec![5, 6]),
            (base.clone(), vec![5, 7]),
            (base.clone(), vec![5]),
        ];
        for (key, ids) in others {
            assert_ne!(key.stream(&ids), base.stream(&prompt), "{key:?} {ids:?}");
        }
        assert_eq!(base.clone().stream(&prompt).uniform(9), base.stream(&prompt).uniform(9));
    }

    #[test]
    fn tokens_draw_different_numbers_in_any_order() {
        let stream = Key::default().stream(&[1]);
        let forward: Vec<f64> = (0..100).map(|token| stream.uniform(token)).collect();
        let mut backward: Vec<f64> = (0..100).rev().map(|token| stream.uniform(token)).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        let mut sorted = forward.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.dedup();
        assert_eq!(sorted.len(), 100);
        assert!(sorted[0] >= 0.0 && sorted[99] < 1.0);
        // Mean 0.5 with standard error 0.029 for 100 draws.
        assert!((forward.iter().sum::<f64>() / 100.0 - 0.5).abs() < 0.12);
    }

    #[test]
    fn names_are_stable_and_distinct() {
        let stream = Key::default().stream(&[1]);
        assert_eq!(stream.name(0), Key::default().stream(&[1]).name(0));
        assert_ne!(stream.name(0), stream.name(1));
        assert!(stream.name(0).len() == 24 && stream.name(0).bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
