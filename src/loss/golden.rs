//! Every loss against numbers from other implementations: tests/golden/golden.json, made by running verl's, Agent Lightning's and
//! OpenRLHF's own code on the inputs that stand in it under `in/`.

use std::collections::HashMap;

use serde_json::Value;

use super::*;

const TOLERANCE: f64 = 1e-10;

/// A `[B, T]` table of which only the tokens of the mask count.
type Table = Vec<Vec<f64>>;

struct Golden(HashMap<String, Value>);

impl Golden {
    fn read() -> Golden {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/golden.json");
        Golden(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    }

    fn number(&self, key: &str) -> f64 {
        self.0[key].as_f64().unwrap()
    }

    fn column(&self, key: &str) -> Vec<f64> {
        serde_json::from_value(self.0[key].clone()).unwrap()
    }

    /// The tokens of the mask, row by row.
    fn masked(&self, key: &str) -> Table {
        let table: Table = serde_json::from_value(self.0[key].clone()).unwrap();
        let mask: Table = serde_json::from_value(self.0["in/mask"].clone()).unwrap();
        let keep =
            |(row, mask): (Vec<f64>, Vec<f64>)| row.into_iter().zip(mask).filter(|(_, m)| *m > 0.0).map(|(x, _)| x).collect();
        table.into_iter().zip(mask).map(keep).collect()
    }
}

struct Inputs {
    new: Table,
    old: Table,
    reference: Table,
    behaviour: Table,
    entropy: Table,
    advantages: Vec<f64>,
    weights: Vec<f64>,
    /// Rollout of each row.
    rollouts: [usize; 6],
}

impl Inputs {
    fn read(golden: &Golden) -> Inputs {
        let new = golden.masked("in/new");
        Inputs {
            entropy: new.iter().map(|row| vec![0.0; row.len()]).collect(),
            old: golden.masked("in/old"),
            reference: golden.masked("in/ref"),
            behaviour: golden.masked("in/roll"),
            advantages: golden.column("adv/grpo_std"),
            weights: vec![1.0; 6],
            rollouts: [0, 1, 2, 3, 4, 5],
            new,
        }
    }

    fn rows(&self) -> Vec<Row<'_>> {
        (0..self.new.len())
            .map(|row| Row {
                logp_t: &self.new[row],
                old_logp_t: &self.old[row],
                behaviour_logp_t: Some(&self.behaviour[row]),
                reference_logp_t: Some(&self.reference[row]),
                entropy_t: &self.entropy[row],
                advantage: self.advantages[row],
                weight: self.weights[row],
                rollout: self.rollouts[row],
            })
            .collect()
    }

    fn denominators(&self) -> Denominators {
        Denominators::of(self.rollouts.into_iter().zip(self.new.iter().map(Vec::len)))
    }

    /// One row a micro-batch, and all in one: the same.
    fn evaluate(&self, algorithm: Algorithm, config: &LossConfig) -> Output {
        let (rows, denominators) = (self.rows(), self.denominators());
        let whole = evaluate(&rows, &denominators, algorithm, config);
        let mut parts = Output::default();
        for row in &rows {
            let part = evaluate(std::slice::from_ref(row), &denominators, algorithm, config);
            parts.loss += part.loss;
            parts.slopes.extend(part.slopes);
            parts.tally.merge(&part.tally);
        }
        assert_eq!(parts.slopes, whole.slopes);
        assert!((parts.loss - whole.loss).abs() < 1e-15);
        whole
    }
}

fn close(what: &str, found: f64, expected: f64) {
    assert!((found - expected).abs() < TOLERANCE, "{what}: {found} instead of {expected}");
}

fn tables_close(what: &str, found: &[&[f64]], expected: &[Vec<f64>]) {
    assert_eq!(found.len(), expected.len());
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len());
        for (token, (found, expected)) in found.iter().zip(expected).enumerate() {
            close(&format!("{what}[{row}, {token}]"), *found, *expected);
        }
    }
}

fn slopes(output: &Output) -> Vec<&[f64]> {
    output.slopes.iter().map(|row| row.logp_t.as_slice()).collect()
}

fn config(low: f64, high: f64, dual: f64, aggregation: Aggregation) -> LossConfig {
    LossConfig {
        clip_low: Some(low),
        clip_high: Some(high),
        dual_clip: Some(dual),
        aggregation: Some(aggregation),
        constant_tokens: Some(5.0),
        ..LossConfig::default()
    }
}

#[test]
fn policy_losses_and_their_slopes() {
    use Aggregation::{Constant, SequenceMean, TokenMean};
    use Algorithm::{Cispo, DppoTv, Gspo, PpoClip};
    let none = f64::INFINITY;
    let cases = [
        ("ppo_clip/token-mean", PpoClip, config(0.2, 0.28, 3.0, TokenMean)),
        ("ppo_clip/seq-mean-token-mean", PpoClip, config(0.2, 0.28, 3.0, SequenceMean)),
        ("ppo_clip/seq-mean-token-sum-norm", PpoClip, config(0.2, 0.28, 3.0, Constant)),
        ("ppo_clip/seq-mean-token-sum", PpoClip, LossConfig { constant_tokens: Some(1.0), ..config(0.2, 0.28, 3.0, Constant) }),
        ("ppo_clip_nodual/token-mean", PpoClip, config(0.2, 0.28, none, TokenMean)),
        ("ppo_clip_nodual/seq-mean-token-mean", PpoClip, config(0.2, 0.28, none, SequenceMean)),
        ("openrlhf_ppo", PpoClip, config(0.2, 0.28, none, TokenMean)),
        ("openrlhf_ppo_dual3", PpoClip, config(0.2, 0.28, 3.0, TokenMean)),
        ("cispo", Cispo, config(0.2, 0.28, none, TokenMean)),
        ("gspo", Gspo, config(0.2, 0.28, none, SequenceMean)),
        ("openrlhf_gspo", Gspo, config(0.2, 0.28, none, SequenceMean)),
        ("dppo_tv", DppoTv, config(0.2, 0.28, 20.0, TokenMean)),
    ];
    let golden = Golden::read();
    for (key, algorithm, config) in cases {
        let mut inputs = Inputs::read(&golden);
        if config.aggregation == Some(SequenceMean) {
            // They divide each row by its tokens and 1e-8.
            inputs.weights = inputs.new.iter().map(|row| row.len() as f64 / (row.len() as f64 + 1e-8)).collect();
        }
        let output = inputs.evaluate(algorithm, &config);
        close(key, output.loss, golden.number(&format!("loss/{key}")));
        tables_close(key, &slopes(&output), &golden.masked(&format!("grad/{key}")));
        let Some(metrics) = golden.0.get(&format!("met/{key}")) else { continue };
        let tally = &output.tally;
        // verl adds 1e-8 to its count of tokens.
        let metric = |name: &str, sum: f64| {
            let expected = metrics[format!("actor/{name}")].as_f64().unwrap();
            assert!((sum / tally.tokens - expected).abs() < 1e-9, "{key} {name}: {sum} {expected}");
        };
        metric("ppo_kl", tally.old_kl);
        metric("pg_clipfrac_lower", tally.clipped_dual);
        metric("pg_clipfrac", tally.clipped_low + tally.clipped_high);
    }
}

#[test]
fn the_plain_policy_gradient_and_cross_entropy_by_hand() {
    let golden = Golden::read();
    let inputs = Inputs::read(&golden);
    let sum = |weight: &dyn Fn(usize) -> f64| {
        inputs.new.iter().enumerate().map(|(row, logp_t)| -weight(row) * logp_t.iter().sum::<f64>() / 22.0).sum::<f64>()
    };
    let reinforce = inputs.evaluate(Algorithm::Reinforce, &LossConfig::default());
    close("reinforce", reinforce.loss, sum(&|row| inputs.advantages[row]));
    close("reinforce slope", reinforce.slopes[1].logp_t[0], -inputs.advantages[1] / 22.0);
    let sft = inputs.evaluate(Algorithm::Sft, &LossConfig::default());
    close("sft", sft.loss, sum(&|_| 1.0));
    close("sft slope", sft.slopes[4].logp_t[0], -1.0 / 22.0);
}

#[test]
fn each_rollout_counts_the_same() {
    // Agent Lightning divides by the rows of the step, 6, instead of its rollouts, 4.
    let golden = Golden::read();
    let inputs = Inputs { rollouts: [0, 0, 1, 2, 2, 3], ..Inputs::read(&golden) };
    let output = inputs.evaluate(Algorithm::PpoClip, &config(0.2, 0.28, 3.0, Aggregation::PerRolloutMean));
    close("loss", output.loss * 4.0 / 6.0, golden.number("loss/agl_per_rollout_mean"));
    let scaled: Vec<Vec<f64>> = slopes(&output).iter().map(|row| row.iter().map(|slope| slope * 4.0 / 6.0).collect()).collect();
    let scaled: Vec<&[f64]> = scaled.iter().map(Vec::as_slice).collect();
    tables_close("slope", &scaled, &golden.masked("grad/agl_per_rollout_mean"));
}

#[test]
fn divergences_and_their_slopes() {
    let golden = Golden::read();
    let inputs = Inputs::read(&golden);
    for (key, estimator) in [("k1", Kl::K1), ("abs", Kl::Abs), ("k2", Kl::K2), ("k3", Kl::K3)] {
        let values: Table = inputs
            .new
            .iter()
            .zip(&inputs.reference)
            .map(|(logp_t, reference_t)| {
                logp_t.iter().zip(reference_t).map(|(&logp, &reference)| estimator.of(logp, reference).value).collect()
            })
            .collect();
        let values: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
        tables_close(key, &values, &golden.masked(&format!("kl/{key}")));
    }
    for (key, estimator) in [("k1", Kl::K1), ("k2", Kl::K2), ("k3", Kl::K3), ("k3+", Kl::K3Plus)] {
        // With advantages of zero the divergence is all there is.
        let inputs = Inputs { advantages: vec![0.0; 6], ..Inputs::read(&golden) };
        let kl = KlConfig { coefficient: 1.0, estimator, place: KlPlace::Loss };
        let output = inputs.evaluate(Algorithm::PpoClip, &LossConfig { kl, ..LossConfig::default() });
        tables_close(key, &slopes(&output), &golden.masked(&format!("klgrad/{key}")));
        close(key, output.loss, output.tally.reference_kl / 22.0);
    }
}

#[test]
fn corrections() {
    let golden = Golden::read();
    let inputs = Inputs::read(&golden);
    let correction = |kind, low, high| CorrectionConfig { kind, low: Some(low), high: Some(high) };
    let cases = [
        ("is/token_tis_1.02", correction(Correction::TokenTruncate, 0.0, 1.02)),
        ("is/seq_tis_1.02", correction(Correction::SequenceTruncate, 0.0, 1.02)),
        ("is/icepop_0.98_1.02", correction(Correction::Icepop, 0.98, 1.02)),
        ("rs/seq_mean_k1_0.99_1.01", correction(Correction::Geometric, 0.99, 1.01)),
        ("rs/seq_mean_k3_2e-4", correction(Correction::K3Reject, 0.0, 2e-4)),
    ];
    for (key, correction) in cases {
        let weights: Table =
            inputs.old.iter().zip(&inputs.behaviour).map(|(old_t, behaviour_t)| correction.weights(old_t, behaviour_t)).collect();
        let weights: Vec<&[f64]> = weights.iter().map(Vec::as_slice).collect();
        tables_close(key, &weights, &golden.masked(key));
    }
    let losses = [
        ("ppo_clip+token_tis_1.02", 3.0, correction(Correction::TokenTruncate, 0.0, 1.02)),
        ("openrlhf_icepop", f64::INFINITY, correction(Correction::Icepop, 0.98, 1.02)),
    ];
    for (key, dual, correction) in losses {
        let config = LossConfig { correction, ..config(0.2, 0.28, dual, Aggregation::TokenMean) };
        let output = inputs.evaluate(Algorithm::PpoClip, &config);
        close(key, output.loss, golden.number(&format!("loss/{key}")));
        tables_close(key, &slopes(&output), &golden.masked(&format!("grad/{key}")));
    }
    // The product of row 2 is exp(-0.12), that of row 0 above 1: kept and taken out by a bound of 1.
    let mask = correction(Correction::SequenceMask, 0.0, 1.0);
    let product = |row: usize| {
        inputs.old[row].iter().zip(&inputs.behaviour[row]).map(|(old, behaviour)| old - behaviour).sum::<f64>().exp()
    };
    assert_eq!(mask.weights(&inputs.old[2], &inputs.behaviour[2]), vec![product(2); 3]);
    assert!(product(0) > 1.0);
    assert_eq!(mask.weights(&inputs.old[0], &inputs.behaviour[0]), vec![0.0; 5]);
}

#[test]
fn the_entropy_bonus_has_its_own_slope() {
    let golden = Golden::read();
    let inputs = Inputs::read(&golden);
    let entropy: Table = inputs.new.iter().map(|row| row.iter().map(|logp| -logp).collect()).collect();
    let inputs = Inputs { entropy, ..inputs };
    let plain = inputs.evaluate(Algorithm::PpoClip, &LossConfig::default());
    let bonus = inputs.evaluate(Algorithm::PpoClip, &LossConfig { entropy_bonus: 0.1, ..LossConfig::default() });
    let mean = inputs.entropy.iter().flatten().sum::<f64>() / 22.0;
    close("loss", bonus.loss, plain.loss - 0.1 * mean);
    close("slope", bonus.slopes[3].entropy_t[0], -0.1 / 22.0);
    assert_eq!(slopes(&bonus), slopes(&plain));
}

#[test]
fn the_value_loss_and_its_slope() {
    // The estimates that the golden numbers were made with: old ones under `in/values`, new ones 0.3 ((i + 2 t) % 3 - 1) away.
    let golden = Golden::read();
    let old: Table = serde_json::from_value(golden.0["in/values"].clone()).unwrap();
    let mask: Table = serde_json::from_value(golden.0["in/mask"].clone()).unwrap();
    let returns: Table = serde_json::from_value(golden.0["adv/gae_returns"].clone()).unwrap();
    let (mut value_b, mut old_b, mut return_b) = (vec![], vec![], vec![]);
    for (i, t) in (0..6).flat_map(|i| (0..5).map(move |t| (i, t))).filter(|&(i, t)| mask[i][t] > 0.0) {
        value_b.push(old[i][t] + 0.3 * ((i + 2 * t) % 3) as f64 - 0.3);
        old_b.push(old[i][t]);
        return_b.push(returns[i][t]);
    }
    let output = value_loss(&value_b, &old_b, &return_b, 0.2, 22.0);
    close("loss", output.loss, golden.number("vf/loss"));
    assert!((output.clipped / 22.0 - golden.number("vf/clipfrac")).abs() < 1e-9);
    let step = 1e-6;
    for row in 0..value_b.len() {
        let mut moved_b = value_b.clone();
        moved_b[row] += step;
        let moved = value_loss(&moved_b, &old_b, &return_b, 0.2, 22.0);
        assert!(((moved.loss - output.loss) / step - output.slope_b[row]).abs() < 1e-6, "row {row}");
    }
}

#[test]
fn a_number_that_is_none_comes_through() {
    let row = Row {
        logp_t: &[f64::NAN],
        old_logp_t: &[-1.0],
        behaviour_logp_t: None,
        reference_logp_t: None,
        entropy_t: &[0.0],
        advantage: -1.0,
        weight: 1.0,
        rollout: 0,
    };
    for algorithm in
        [Algorithm::PpoClip, Algorithm::Reinforce, Algorithm::Cispo, Algorithm::Gspo, Algorithm::DppoTv, Algorithm::Sft]
    {
        let output = evaluate(&[row], &Denominators::of([(0, 1)]), algorithm, &LossConfig::default());
        assert!(output.loss.is_nan(), "{algorithm:?}");
    }
}
