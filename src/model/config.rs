//! A model's `config.json`: the few keys that decide the arithmetic are read, the rest is kept and written back.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use tch::Kind;

use super::rope::Rope;
use crate::exit::Fault;

/// Families that differ in biases and norms alone. SmolLM2 is `llama`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
}

impl Architecture {
    /// `model_type` in `config.json`, and the architecture in a GGUF file.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        }
    }

    /// The class in transformers, the only one of `architectures`.
    pub fn class(self) -> &'static str {
        match self {
            Architecture::Llama => "LlamaForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    pub fn from_name(name: &str) -> Result<Architecture> {
        let all = [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3];
        let known = all.into_iter().find(|architecture| architecture.name() == name);
        known.with_context(|| Fault::Usage(format!("architecture `{name}` is not supported; use one of llama, qwen2, qwen3")))
    }
}

/// What decides a model's shapes and arithmetic.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub architecture: Architecture,
    pub vocab_size: i64,
    pub hidden_size: i64,
    pub intermediate_size: i64,
    pub layers: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: i64,
    /// Channels of a head, which need not be `hidden_size / heads`.
    pub head_dim: i64,
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// The embedding is the head too.
    pub tie_word_embeddings: bool,
    /// Queries, keys and values have biases; in Llama and Qwen3 the output has one too.
    pub attention_bias: bool,
    /// Queries and keys are normed in each head.
    pub qk_norm: bool,
    pub max_positions: i64,
    /// Every key of the file it came from, known or not; empty where it came from none.
    pub source: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `config.json` of a Hugging Face directory.
    ///
    /// Fails where a key is missing, or says something that the arithmetic here would get wrong.
    pub fn load(folder: &Path) -> Result<ModelConfig> {
        let path = folder.join("config.json");
        let text = std::fs::read(&path).with_context(|| {
            Fault::Usage(format!("`{}` cannot be read; is this a Hugging Face model directory?", path.display()))
        })?;
        let value: Value = serde_json::from_slice(&text).with_context(|| format!("`{}` is not JSON", path.display()))?;
        ModelConfig::from_json(value).with_context(|| format!("in `{}`", path.display()))
    }

    pub fn from_json(value: Value) -> Result<ModelConfig> {
        let Value::Object(source) = value else { bail!("the configuration is no JSON object") };
        let name = source.get("model_type").and_then(Value::as_str).context("`model_type` is missing")?;
        let architecture = Architecture::from_name(name)?;
        if let Some(class) = source.get("architectures").and_then(|classes| classes.get(0)).and_then(Value::as_str)
            && class != architecture.class()
        {
            bail!(Fault::Usage(format!("architecture `{class}` is not supported; `{name}` has `{}`", architecture.class())));
        }
        refuse_what_differs(&source)?;

        let integer = |key: &str| optional_integer(&source, key)?.with_context(|| format!("`{key}` is missing"));
        let flag = |key: &str| source.get(key).and_then(Value::as_bool).unwrap_or(false);
        let (hidden_size, heads) = (integer("hidden_size")?, integer("num_attention_heads")?);
        let kv_heads = optional_integer(&source, "num_key_value_heads")?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            bail!("`num_attention_heads` {heads} is no multiple of `num_key_value_heads` {kv_heads}");
        }
        let head_dim = match (optional_integer(&source, "head_dim")?, architecture) {
            (Some(head_dim), _) => head_dim,
            // The default of the class in transformers.
            (None, Architecture::Qwen3) => 128,
            (None, _) if hidden_size % heads == 0 => hidden_size / heads,
            (None, _) => {
                bail!("`hidden_size` {hidden_size} is no multiple of `num_attention_heads` {heads}, and there is no `head_dim`")
            }
        };
        if head_dim % 2 != 0 {
            bail!("`head_dim` {head_dim} is odd, so that its channels cannot be rotated in pairs");
        }
        let max_positions = optional_integer(&source, "max_position_embeddings")?.unwrap_or(2048);
        Ok(ModelConfig {
            architecture,
            vocab_size: integer("vocab_size")?,
            hidden_size,
            intermediate_size: integer("intermediate_size")?,
            layers: integer("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            rms_norm_eps: source.get("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6),
            rope: Rope::from_json(&source, max_positions)?,
            tie_word_embeddings: flag("tie_word_embeddings"),
            attention_bias: architecture == Architecture::Qwen2 || flag("attention_bias"),
            qk_norm: architecture == Architecture::Qwen3,
            max_positions,
            source,
        })
    }

    /// The output projection of attention has a bias.
    pub fn output_bias(&self) -> bool {
        self.attention_bias && self.architecture != Architecture::Qwen2
    }

    /// `config.json`: the keys that it came with, in their order, and over them what is known here.
    ///
    /// * `kind`: of the weights beside it; `transformers` loads them in what the file says.
    pub fn to_json(&self, kind: Kind) -> Value {
        let mut keys = self.source.clone();
        let mut set = |key: &str, value: Value| keys.insert(key.to_owned(), value);
        set("model_type", json!(self.architecture.name()));
        set("architectures", json!([self.architecture.class()]));
        set("vocab_size", json!(self.vocab_size));
        set("hidden_size", json!(self.hidden_size));
        set("intermediate_size", json!(self.intermediate_size));
        set("num_hidden_layers", json!(self.layers));
        set("num_attention_heads", json!(self.heads));
        set("num_key_value_heads", json!(self.kv_heads));
        set("head_dim", json!(self.head_dim));
        set("hidden_act", json!("silu"));
        set("rms_norm_eps", json!(self.rms_norm_eps));
        set("tie_word_embeddings", json!(self.tie_word_embeddings));
        set("max_position_embeddings", json!(self.max_positions));
        if self.architecture != Architecture::Qwen2 {
            set("attention_bias", json!(self.attention_bias));
        }
        // The key was renamed in transformers 5, which reads both.
        let stored = if self.source.contains_key("dtype") { &["dtype"] } else { &["torch_dtype"] };
        for key in stored.iter().chain(self.source.get_key_value("torch_dtype").map(|_| &"torch_dtype")) {
            set(key, json!(kind_name(kind)));
        }
        self.rope.put_json(&mut keys);
        Value::Object(keys)
    }
}

/// The name that PyTorch gives a kind of number.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Double => "float64",
        Kind::Half => "float16",
        Kind::BFloat16 => "bfloat16",
        _ => "float32",
    }
}

fn optional_integer(keys: &Map<String, Value>, key: &str) -> Result<Option<i64>> {
    match keys.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_i64().filter(|number| *number > 0) {
            Some(number) => Ok(Some(number)),
            None => bail!("`{key}` is {value}, not a whole number above 0"),
        },
    }
}

/// Keys that would change the arithmetic in a way that is not written here.
fn refuse_what_differs(keys: &Map<String, Value>) -> Result<()> {
    let refuse = |key: &str, value: &Value| Err(Fault::Usage(format!("`{key}` = {value} is not supported")));
    let expected = [
        ("hidden_act", json!("silu")),
        ("mlp_bias", json!(false)),
        ("use_sliding_window", json!(false)),
        ("partial_rotary_factor", json!(1.0)),
    ];
    for (key, only) in &expected {
        if let Some(value) = keys.get(*key).filter(|value| !value.is_null() && !same(value, only)) {
            refuse(key, value)?;
        }
    }
    if let Some(value) = keys.get("quantization_config").filter(|value| !value.is_null()) {
        refuse("quantization_config", value)?;
    }
    let types = keys.get("layer_types").and_then(Value::as_array);
    if let Some(value) = types.into_iter().flatten().find(|value| *value != "full_attention") {
        refuse("layer_types", value)?;
    }
    Ok(())
}

/// Equal, where 1 and 1.0 are.
fn same(left: &Value, right: &Value) -> bool {
    left == right || left.as_f64().zip(right.as_f64()).is_some_and(|(left, right)| left == right)
}
