//! Low-rank adapters in the layout of PEFT: made, loaded, saved and merged. A model without its adapter is the reference policy.
//!
//! Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use super::safetensors::{read_all, write};
use super::weights::{generator, uniform};
use super::{Layer, Linear, Lora, Model};
use crate::exit::Fault;

/// Folder of an adapter in a policy folder.
pub const FOLDER: &str = "adapter";
/// What an adapter's folder always has: how it was made.
pub const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// The projections of a layer, by the names that an adapter's settings use.
pub const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

impl Model {
    /// Gives projections an adapter that does nothing yet: A uniform within `1 / sqrt(inputs)`, as PEFT makes it, and B zero.
    ///
    /// * `alpha`: what the adapter adds is scaled by `alpha / rank`.
    /// * `targets`: names out of `TARGETS`, or `all-linear` alone for all of them.
    /// * `seed`: the same one gives the same adapter.
    pub fn add_adapter(&mut self, rank: i64, alpha: f64, targets: &[&str], seed: u64) -> Result<()> {
        ensure!(rank > 0, Fault::Usage(format!("an adapter's rank is {rank}; it has to be above 0")));
        let known = || format!("all-linear, {}", TARGETS.join(", "));
        if let Some(name) = targets.iter().find(|name| **name != "all-linear" && !TARGETS.contains(*name)) {
            bail!(Fault::Usage(format!("no projection is called `{name}`; use some of {}", known())));
        }
        ensure!(!targets.is_empty(), Fault::Usage(format!("an adapter has no targets; use some of {}", known())));
        let options = (self.kind(), self.device());
        self.each_projection(|name, linear| {
            let chosen = targets.iter().any(|target| *target == "all-linear" || name.ends_with(&format!(".{target}")));
            linear.lora = chosen.then(|| {
                let (outputs, inputs) = (linear.weight_oi.size()[0], linear.weight_oi.size()[1]);
                let mut generator = generator(seed, &format!("{name}.lora_A"));
                let bound = 1.0 / (inputs as f64).sqrt();
                let numbers: Vec<f32> =
                    (0..rank * inputs).map(|_| ((2.0 * uniform(&mut generator) - 1.0) * bound) as f32).collect();
                let a_ri = Tensor::from_slice(&numbers).view([rank, inputs]).to_device(options.1).to_kind(options.0);
                Lora { a_ri, b_or: Tensor::zeros([outputs, rank], options), scale: alpha / rank as f64 }
            });
        });
        Ok(())
    }

    /// The adapter's weights under their names in PEFT, sorted by them; empty without an adapter. The tensors are shared, not copied.
    pub fn adapter_parameters(&self) -> Vec<(String, Tensor)> {
        let mut parameters = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            for (name, linear) in layer.projections() {
                let Some(lora) = &linear.lora else { continue };
                parameters.push((format!("{PREFIX}model.layers.{index}.{name}.lora_A.weight"), lora.a_ri.shallow_clone()));
                parameters.push((format!("{PREFIX}model.layers.{index}.{name}.lora_B.weight"), lora.b_or.shallow_clone()));
            }
        }
        parameters.sort_by(|left, right| left.0.cmp(&right.0));
        parameters
    }

    /// What training changes: the adapter where there is one, else every weight.
    pub fn trainable(&self) -> Vec<(String, Tensor)> {
        let adapter = self.adapter_parameters();
        if adapter.is_empty() { self.parameters() } else { adapter }
    }

    /// Reads an adapter's folder over the weights that are here; one that was there before goes.
    ///
    /// Fails, naming it, at a setting that changes the arithmetic in a way that is not written here, and at a tensor that does not fit.
    pub fn load_adapter(&mut self, folder: &Path) -> Result<()> {
        let path = folder.join(CONFIG);
        let text = std::fs::read(&path).with_context(|| Fault::Usage(format!("`{}` cannot be read", path.display())))?;
        let settings: Value = serde_json::from_slice(&text).with_context(|| format!("`{}` is not JSON", path.display()))?;
        let (rank, scale) = rank_and_scale(&settings).with_context(|| format!("in `{}`", path.display()))?;
        let mut tensors = read_all(&folder.join(WEIGHTS))?;
        let (kind, device) = (self.kind(), self.device());
        let usage = |message: String| Fault::Usage(format!("`{}`: {message}", folder.display()));
        let mut misfit = None;
        self.each_projection(|name, linear| {
            let keys = ["lora_A", "lora_B"].map(|part| format!("{PREFIX}{name}.{part}.weight"));
            let shapes = [[rank, linear.weight_oi.size()[1]], [linear.weight_oi.size()[0], rank]];
            let found = [0, 1].map(|side| tensors.remove(&keys[side]));
            linear.lora = None;
            let [Some(a_ri), Some(b_or)] = found else {
                // A projection with neither is simply not adapted.
                if found.iter().any(Option::is_some) {
                    let side = if found[0].is_none() { 0 } else { 1 };
                    misfit.get_or_insert(format!("tensor `{}` is missing", keys[side]));
                }
                return;
            };
            for ((key, tensor), shape) in keys.iter().zip([&a_ri, &b_or]).zip(shapes) {
                if tensor.size() != shape {
                    misfit.get_or_insert(format!("tensor `{key}` has the shape {:?}, not {shape:?}", tensor.size()));
                }
            }
            let here = |tensor: Tensor| tensor.to_device(device).to_kind(kind);
            linear.lora = Some(Lora { a_ri: here(a_ri), b_or: here(b_or), scale });
        });
        if let Some(message) = misfit {
            bail!(usage(message));
        }
        if let Some(name) = tensors.keys().next() {
            bail!(usage(format!("there is no place for its tensor `{name}`")));
        }
        ensure!(!self.adapter_parameters().is_empty(), usage("it holds no adapter".to_owned()));
        Ok(())
    }

    /// Writes the adapter as PEFT does. The bytes depend on the adapter and `base` alone.
    ///
    /// * `base`: where a reader finds the weights that it belongs to.
    pub fn save_adapter(&self, folder: &Path, base: Option<&str>) -> Result<()> {
        let lora = self.layers.iter().flat_map(Layer::projections).find_map(|(_, linear)| linear.lora.as_ref());
        let lora = lora.context("the model has no adapter")?;
        let rank = lora.a_ri.size()[0];
        let settings = json!({
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": alpha(lora.scale * rank as f64),
            "lora_dropout": 0.0,
            "peft_type": "LORA",
            "r": rank,
            "target_modules": self.targets(),
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": false,
        });
        std::fs::create_dir_all(folder).with_context(|| format!("making `{}`", folder.display()))?;
        write(&folder.join(WEIGHTS), &self.adapter_parameters())?;
        let path = folder.join(CONFIG);
        std::fs::write(&path, format!("{settings:#}\n")).with_context(|| format!("writing `{}`", path.display()))
    }

    /// The names that PEFT finds the adapted projections by: short ones where every layer has them, else all in full.
    fn targets(&self) -> Vec<String> {
        let adapted = |layer: &Layer| -> BTreeSet<&'static str> {
            layer.projections().into_iter().filter(|(_, linear)| linear.lora.is_some()).map(|(name, _)| name).collect()
        };
        let layers: Vec<_> = self.layers.iter().map(adapted).collect();
        if layers.windows(2).all(|pair| pair[0] == pair[1]) {
            let short = |name: &&str| name.rsplit('.').next().unwrap_or(name).to_owned();
            return layers.first().into_iter().flatten().map(short).collect();
        }
        let full = |(index, names): (usize, &BTreeSet<&'static str>)| -> Vec<String> {
            names.iter().map(|name| format!("model.layers.{index}.{name}")).collect()
        };
        layers.iter().enumerate().flat_map(full).collect()
    }

    /// The model that computes the same without an adapter: `W + scale * B A`. What has no adapter is shared.
    pub fn merged(&self) -> Model {
        let _guard = tch::no_grad_guard();
        let mut merged = self.without_adapter();
        for (merged, layer) in merged.layers.iter_mut().zip(&self.layers) {
            for (merged, (_, linear)) in merged.projections_mut().into_iter().zip(layer.projections()) {
                let Some(lora) = &linear.lora else { continue };
                // Summed in f32 at least: in bf16 most of a small adapter would round away before it is added.
                let wide = if merged.weight_oi.kind() == Kind::Double { Kind::Double } else { Kind::Float };
                let added_oi = lora.b_or.to_kind(wide).matmul(&lora.a_ri.to_kind(wide)) * lora.scale;
                let kind = merged.weight_oi.kind();
                merged.weight_oi = (merged.weight_oi.detach().to_kind(wide) + added_oi).to_kind(kind);
            }
        }
        merged
    }

    fn each_projection(&mut self, mut change: impl FnMut(&str, &mut Linear)) {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let names = layer.projections().map(|(name, _)| name);
            for (name, linear) in names.into_iter().zip(layer.projections_mut()) {
                change(&format!("model.layers.{index}.{name}"), linear);
            }
        }
    }
}

impl Layer {
    /// In the order of `projections`.
    fn projections_mut(&mut self) -> [&mut Linear; 7] {
        let Layer { query, key, value, output, gate, up, down, .. } = self;
        [query, key, value, output, gate, up, down]
    }
}

/// A whole number where it is one, as PEFT writes it.
fn alpha(alpha: f64) -> Value {
    if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) }
}

fn rank_and_scale(settings: &Value) -> Result<(i64, f64)> {
    let plain = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(keys) => keys.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::String(text) => text == "none",
        _ => false,
    };
    let differing = [
        "alpha_pattern",
        "bias",
        "fan_in_fan_out",
        "layer_replication",
        "lora_bias",
        "modules_to_save",
        "rank_pattern",
        "target_parameters",
        "trainable_token_indices",
        "use_bdlora",
        "use_dora",
        "use_qalora",
    ];
    if let Some(key) = differing.iter().find(|key| !plain(&settings[**key])) {
        bail!(Fault::Usage(format!("`{key}` = {} is not supported", settings[*key])));
    }
    ensure!(settings["peft_type"] == "LORA", Fault::Usage(format!("`peft_type` = {} is not supported", settings["peft_type"])));
    let rank = settings["r"].as_i64().filter(|rank| *rank > 0).context("`r` is missing")?;
    let alpha = settings["lora_alpha"].as_f64().context("`lora_alpha` is missing")?;
    let by = if settings["use_rslora"] == true { (rank as f64).sqrt() } else { rank as f64 };
    Ok((rank, alpha / by))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{fixtures, furthest, gradients_off, load, off};

    fn adapted() -> Model {
        let mut model = load("llama_tied", Kind::Double);
        model.load_adapter(&fixtures().join("lora")).unwrap();
        model
    }

    #[test]
    fn logits_with_an_adapter_are_those_of_peft() {
        let _guard = tch::no_grad_guard();
        let model = adapted();
        for (model, expected) in [(&model, "logits_f64"), (&model.merged(), "merged_logits_f64"), (&model.merged(), "logits_f64")]
        {
            let off = off(model, "lora", expected);
            assert!(off < 1e-9, "{expected}: off by {off:e}");
        }
        let off_without = off(&model.without_adapter(), "llama_tied", "logits_f64");
        assert!(off_without < 1e-9, "without: off by {off_without:e}");
    }

    #[test]
    fn gradients_of_an_adapter_are_those_of_peft() {
        let off = gradients_off(&adapted(), "lora");
        assert!(off < 1e-9, "off by {off:e}");
    }

    #[test]
    fn a_saved_adapter_is_the_same_adapter() {
        let folder = tempfile::tempdir().unwrap();
        let model = adapted();
        model.save_adapter(folder.path(), Some("somewhere")).unwrap();
        let mut back = load("llama_tied", Kind::Double);
        back.load_adapter(folder.path()).unwrap();
        let (left, right) = (model.adapter_parameters(), back.adapter_parameters());
        assert_eq!((left.len(), right.len()), (28, 28));
        for ((left_name, left), (right_name, right)) in left.iter().zip(&right) {
            assert_eq!(left_name, right_name);
            assert!(left.equal(right), "{left_name}");
        }
        let settings: Value = serde_json::from_slice(&std::fs::read(folder.path().join(CONFIG)).unwrap()).unwrap();
        assert_eq!((&settings["r"], &settings["lora_alpha"]), (&json!(3), &json!(6)));
    }

    #[test]
    fn a_new_adapter_changes_nothing_yet() {
        let _guard = tch::no_grad_guard();
        let mut model = load("qwen3", Kind::Double);
        model.add_adapter(4, 8.0, &["q_proj", "down_proj"], 1).unwrap();
        assert_eq!(off(&model, "qwen3", "logits_f64"), off(&model.without_adapter(), "qwen3", "logits_f64"));
        let names: Vec<String> = model.adapter_parameters().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names[0], "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight");
        assert_eq!((names.len(), model.trainable().len()), (8, 8));
        let a_ri = &model.layers[0].query.lora.as_ref().unwrap().a_ri;
        let furthest_out = a_ri.abs().max().double_value(&[]);
        assert!(furthest_out <= 0.25 && furthest_out > 0.2, "{furthest_out}");
        let mut again = load("qwen3", Kind::Double);
        again.add_adapter(4, 8.0, &["q_proj", "down_proj"], 1).unwrap();
        assert_eq!(furthest(&again.layers[0].query.lora.as_ref().unwrap().a_ri, a_ri), 0.0);
        assert!(again.add_adapter(4, 8.0, &["c_attn"], 1).unwrap_err().to_string().contains("`c_attn`"));
    }

    #[test]
    fn an_adapter_that_does_not_fit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let key = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight";
        let cases: [(fn(&mut Vec<(String, Tensor)>, &mut Value), &str); 4] = [
            (|tensors, _| tensors.retain(|(name, _)| !name.ends_with("layers.1.mlp.up_proj.lora_B.weight")), key),
            (|_, settings| settings["r"] = json!(5), "has the shape [3, 16], not [5, 16]"),
            (|_, settings| settings["use_dora"] = json!(true), "`use_dora` = true is not supported"),
            (
                |tensors, _| tensors.push(("lm_head.lora_A.weight".to_owned(), Tensor::from_slice(&[1.0f32]))),
                "lm_head.lora_A.weight",
            ),
        ];
        for (change, message) in cases {
            adapted().save_adapter(folder.path(), None).unwrap();
            let mut tensors = adapted().adapter_parameters();
            let mut settings: Value = serde_json::from_slice(&std::fs::read(folder.path().join(CONFIG)).unwrap()).unwrap();
            change(&mut tensors, &mut settings);
            write(&folder.path().join(WEIGHTS), &tensors).unwrap();
            std::fs::write(folder.path().join(CONFIG), settings.to_string()).unwrap();
            let error = load("llama_tied", Kind::Double).load_adapter(folder.path()).unwrap_err();
            assert!(format!("{error:#}").contains(message), "{error:#}");
        }
    }
}
