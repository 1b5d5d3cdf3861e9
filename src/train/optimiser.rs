//! AdamW, written out so that its state can be saved and gone on from to the last bit.
//!
//! Where the model computes in a short kind (bf16, f16), the optimiser keeps each parameter in f32 and adds up gradients in f32 too: a step of
//! 1e-6 would be rounded away otherwise. An f32 or f64 parameter is its own master.
//!
//! Source: Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2, with the schedule multiplied into the learning rate as PyTorch does.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::model::safetensors;

/// Name of the number of steps in a saved state.
const STEPS: &str = "steps";

/// What the optimiser is told beside the learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// How slowly the mean of the gradients forgets, 0 to 1.
    pub beta1: f64,
    /// How slowly the mean of their squares forgets, 0 to 1.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// Share of a weight that goes at each step, times the learning rate. Vectors (norms and biases) do not decay.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> AdamWConfig {
        AdamWConfig { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// The optimiser of some named parameters.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    /// Steps done.
    steps: i64,
    slots: Vec<Slot>,
}

/// One parameter and what is remembered of it. All tensors have its shape; all but the first are of the state's kind.
#[derive(Debug)]
struct Slot {
    name: String,
    /// The model's own tensor.
    parameter: Tensor,
    /// Multiplies the learning rate.
    rate_factor: f64,
    /// Shares the parameter's memory where the kind is the same.
    master: Tensor,
    /// Running means of the gradient and of its square.
    mean: Tensor,
    square: Tensor,
    /// The gradient so far, where the parameter's kind is too short to add up in.
    gradient: Option<Tensor>,
}

impl AdamW {
    /// An optimiser that has done nothing yet. Every parameter is made to require its gradient.
    ///
    /// * `parameters`: shared with the model, under names that differ.
    pub fn new(parameters: Vec<(String, Tensor)>, config: AdamWConfig) -> AdamW {
        let mut optimiser = AdamW { config, steps: 0, slots: Vec::new() };
        optimiser.add(parameters, 1.0);
        optimiser
    }

    /// Takes on more parameters, which learn at a multiple of the learning rate.
    pub fn add(&mut self, parameters: Vec<(String, Tensor)>, rate_factor: f64) {
        let slot = |(name, parameter): (String, Tensor)| {
            let parameter = parameter.set_requires_grad(true);
            let kind = state_kind(parameter.kind());
            let master = parameter.detach().to_kind(kind);
            let (mean, square) = (master.zeros_like(), master.zeros_like());
            let gradient = (kind != parameter.kind()).then(|| master.zeros_like());
            Slot { name, parameter, rate_factor, master, mean, square, gradient }
        };
        self.slots.extend(parameters.into_iter().map(slot));
    }

    /// Forgets the gradients.
    pub fn zero_gradients(&mut self) {
        for slot in &mut self.slots {
            slot.parameter.zero_grad();
            if let Some(gradient) = &mut slot.gradient {
                let _ = gradient.zero_();
            }
        }
    }

    /// Takes in what `backward` has left since the last call. After every micro-batch; it does something only for short kinds.
    pub fn collect_gradients(&mut self) {
        for Slot { parameter, gradient, .. } in &mut self.slots {
            let found = parameter.grad();
            if let Some(gradient) = gradient
                && found.defined()
            {
                *gradient += found;
                parameter.zero_grad();
            }
        }
    }

    /// The Euclidean norm of all gradients together, in f64; not finite where one of them is not.
    pub fn gradient_norm(&self) -> f64 {
        let squares = self.slots.iter().filter_map(Slot::collected).map(|gradient| {
            let norm = gradient.norm_scalaropt_dtype(2.0, Kind::Double).double_value(&[]);
            norm * norm
        });
        squares.sum::<f64>().sqrt()
    }

    /// One step down the gradients. A parameter without one stays as it is.
    ///
    /// * `gradient_scale`: what the gradients are multiplied by, such as `clip_scale`.
    pub fn step(&mut self, learning_rate: f64, gradient_scale: f64) {
        let _guard = tch::no_grad_guard();
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        self.steps += 1;
        let mean_correction = 1.0 - beta1.powi(self.steps as i32);
        let square_correction = 1.0 - beta2.powi(self.steps as i32);
        for slot in &mut self.slots {
            let Some(gradient) = slot.collected() else { continue };
            let gradient = gradient * gradient_scale;
            let learning_rate = learning_rate * slot.rate_factor;
            if slot.master.dim() > 1 && weight_decay != 0.0 {
                slot.master *= 1.0 - learning_rate * weight_decay;
            }
            slot.mean *= beta1;
            slot.mean += &gradient * (1.0 - beta1);
            slot.square *= beta2;
            slot.square += (&gradient * &gradient) * (1.0 - beta2);
            let spread = slot.square.sqrt() / square_correction.sqrt() + epsilon;
            slot.master -= (&slot.mean / spread) * (learning_rate / mean_correction);
            if slot.gradient.is_some() {
                slot.parameter.copy_(&slot.master);
            }
        }
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.steps.unsigned_abs()
    }

    /// Writes everything that `load` needs into one safetensors file: the same state, the same bytes.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = vec![(STEPS.to_owned(), Tensor::from_slice(&[self.steps]))];
        for slot in &self.slots {
            tensors.push((format!("{}.mean", slot.name), slot.mean.shallow_clone()));
            tensors.push((format!("{}.square", slot.name), slot.square.shallow_clone()));
            if slot.gradient.is_some() {
                tensors.push((format!("{}.master", slot.name), slot.master.shallow_clone()));
            }
        }
        tensors.sort_by(|one, other| one.0.cmp(&other.0));
        safetensors::write(path, &tensors)
    }

    /// Goes on from a saved state. Parameters that the state knows nothing of begin anew, as a value head does that was not there before.
    ///
    /// Fails where a tensor has another shape than its parameter: the state is then another model's.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let state: BTreeMap<String, Tensor> = safetensors::read_all(path)?;
        let steps = state.get(STEPS).with_context(|| format!("`{}` is no optimiser's state", path.display()))?;
        self.steps = steps.int64_value(&[0]);
        for slot in &mut self.slots {
            let parts = [("mean", &mut slot.mean), ("square", &mut slot.square), ("master", &mut slot.master)];
            for (part, tensor) in parts {
                let Some(found) = state.get(&format!("{}.{part}", slot.name)) else { continue };
                let (name, path) = (&slot.name, path.display());
                ensure!(
                    found.size() == tensor.size(),
                    "`{name}` is {:?} in `{path}` and {:?} in the policy",
                    found.size(),
                    tensor.size()
                );
                tensor.copy_(found);
            }
            if slot.gradient.is_some() {
                slot.parameter.copy_(&slot.master);
            }
        }
        Ok(())
    }
}

impl Slot {
    /// The whole gradient, in the state's kind; `None` where nothing depends on the parameter.
    fn collected(&self) -> Option<Tensor> {
        match &self.gradient {
            Some(gradient) => Some(gradient.shallow_clone()),
            None => Some(self.parameter.grad()).filter(Tensor::defined),
        }
    }
}

/// What gradients are multiplied by so that their norm is at most `max_norm`.
pub fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

fn state_kind(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: i64 = 20;

    fn fixture() -> BTreeMap<String, Tensor> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/optimiser/adamw.safetensors");
        safetensors::read_all(Path::new(path)).unwrap()
    }

    fn parameters(kind: Kind) -> Vec<(String, Tensor)> {
        let fixture = fixture();
        let of = |name: &str| (name.to_owned(), fixture[&format!("before.{name}")].to_kind(kind).copy());
        vec![of("matrix"), of("vector")]
    }

    fn optimiser(parameters: &[(String, Tensor)]) -> AdamW {
        let shared = parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        AdamW::new(shared, AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() })
    }

    /// The fixture's step; returns the norm of the gradients.
    fn step(optimiser: &mut AdamW, parameters: &[(String, Tensor)], step: i64) -> f64 {
        optimiser.zero_gradients();
        for (_, weight) in parameters {
            (weight * 3.0 + step as f64).sin().sum(Kind::Double).backward();
            optimiser.collect_gradients();
        }
        let norm = optimiser.gradient_norm();
        optimiser.step(1e-3, clip_scale(norm, 2.5));
        norm
    }

    fn distance(one: &Tensor, other: &Tensor) -> f64 {
        (one.to_kind(Kind::Double) - other.to_kind(Kind::Double)).abs().max().double_value(&[])
    }

    #[test]
    fn twenty_steps_are_those_of_pytorch() {
        let fixture = fixture();
        let parameters = parameters(Kind::Double);
        let mut optimiser = optimiser(&parameters);
        for at in 0..STEPS {
            let norm = step(&mut optimiser, &parameters, at);
            assert!((norm - fixture["norms"].double_value(&[at])).abs() < 1e-12);
        }
        for (name, weight) in &parameters {
            let distance = distance(weight, &fixture[&format!("after.{name}")]);
            assert!(distance < 1e-12, "{name}: {distance}");
        }
    }

    #[test]
    fn a_saved_state_goes_on_to_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        for kind in [Kind::Double, Kind::Float, Kind::BFloat16] {
            let whole = parameters(kind);
            let mut optimiser_whole = optimiser(&whole);
            for at in 0..STEPS {
                step(&mut optimiser_whole, &whole, at);
            }

            let first = parameters(kind);
            let mut optimiser_first = optimiser(&first);
            for at in 0..STEPS / 2 {
                step(&mut optimiser_first, &first, at);
            }
            let path = folder.path().join("optimiser.safetensors");
            optimiser_first.save(&path).unwrap();
            let second: Vec<_> = first.iter().map(|(name, weight)| (name.clone(), weight.detach().copy())).collect();
            let mut optimiser_second = optimiser(&second);
            optimiser_second.load(&path).unwrap();
            assert_eq!(optimiser_second.steps(), 10);
            for at in STEPS / 2..STEPS {
                step(&mut optimiser_second, &second, at);
            }
            for ((name, one), (_, other)) in whole.iter().zip(&second) {
                assert_eq!(one, other, "{name} in {kind:?}");
            }
        }
    }

    #[test]
    fn a_short_kind_learns_through_its_master() {
        // One bf16 weight of 1 cannot move by less than 0.004: 20 steps of about 1e-3 have to.
        let parameters = vec![("w".to_owned(), Tensor::ones([1], (Kind::BFloat16, tch::Device::Cpu)))];
        let mut optimiser = optimiser(&parameters);
        for at in 0..STEPS {
            optimiser.zero_gradients();
            (&parameters[0].1 * 1.0).sum(Kind::Float).backward();
            optimiser.collect_gradients();
            optimiser.step(1e-3, 1.0);
            assert_eq!(optimiser.steps(), at as u64 + 1);
        }
        // Adam's step on a gradient that never changes is the learning rate.
        assert!((optimiser.slots[0].master.double_value(&[0]) - 0.98).abs() < 1e-6);
        assert_eq!(parameters[0].1.double_value(&[0]), 0.98046875);
    }

    #[test]
    fn the_state_of_another_model_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optimiser.safetensors");
        let of = |size: i64| vec![("w".to_owned(), Tensor::ones([size], (Kind::Float, tch::Device::Cpu)))];
        optimiser(&of(2)).save(&path).unwrap();
        let message = optimiser(&of(3)).load(&path).unwrap_err().to_string();
        assert!(message.contains("`w` is [2] in") && message.ends_with("and [3] in the policy"), "{message}");
    }
}
