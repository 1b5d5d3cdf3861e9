//! Hugging Face directories: weights in one or several safetensors files, read by mmap and written with the same bytes every time.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View, serialize_to_file};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::weights::shapes;
use super::{Model, ModelConfig};
use crate::exit::Fault;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl Model {
    /// Reads the weights of a Hugging Face directory, converted to `kind` on `device`.
    ///
    /// Fails, naming it, where a tensor is missing, has another shape or is one that the configuration does not know of.
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<Model> {
        let config = ModelConfig::load(folder)?;
        let expected = shapes(&config);
        let mut tensors = BTreeMap::new();
        for path in files(folder)? {
            let in_file = || format!("in `{}`", path.display());
            let file = open(&path)?;
            let file = SafeTensors::deserialize(&file).with_context(|| format!("`{}` is no safetensors file", path.display()))?;
            for name in sorted_names(&file) {
                let view = file.tensor(name).with_context(in_file)?;
                match expected.get(name) {
                    Some(shape) => {
                        let tensor = read(name, &view, shape, device, kind).with_context(in_file)?;
                        tensors.insert(name.to_owned(), tensor);
                    }
                    None if ignored(name, &config) => {}
                    None => bail!(Fault::Usage(format!(
                        "`{}` has a tensor `{name}` that its config.json says nothing of",
                        path.display()
                    ))),
                }
            }
        }
        if let Some(name) = expected.keys().find(|name| !tensors.contains_key(*name)) {
            bail!(Fault::Usage(format!("tensor `{name}` is missing from `{}`", folder.display())));
        }
        Model::from_tensors(config, tensors)
    }

    /// Writes `model.safetensors` and `config.json`; without an adapter. The folder is made where it is not there.
    ///
    /// The bytes depend on the weights and the configuration alone.
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("making `{}`", folder.display()))?;
        write(&folder.join(SINGLE), &self.parameters())?;
        let path = folder.join("config.json");
        let mut text = serde_json::to_string_pretty(&self.config.to_json(self.kind()))?;
        text.push('\n');
        std::fs::write(&path, text).with_context(|| format!("writing `{}`", path.display()))
    }
}

/// Reads every tensor of one file as it is, on the CPU.
pub fn read_all(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let file = open(path)?;
    let file = SafeTensors::deserialize(&file).with_context(|| format!("`{}` is no safetensors file", path.display()))?;
    let mut tensors = BTreeMap::new();
    for name in sorted_names(&file) {
        let view = file.tensor(name)?;
        let shape: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
        let kind = kind_of(view.dtype()).with_context(|| format!("tensor `{name}` of `{}`", path.display()))?;
        tensors.insert(name.to_owned(), read(name, &view, &shape, Device::Cpu, kind)?);
    }
    Ok(tensors)
}

/// Writes tensors under their names; f64, f32, f16, bf16 and whole numbers of 64 bits.
pub fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let views: Vec<(&str, Written)> =
        tensors.iter().map(|(name, tensor)| Ok((name.as_str(), Written::new(tensor)?))).collect::<Result<_>>()?;
    // One key: a map of several would be written in any order.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize_to_file(views, Some(metadata), path).with_context(|| format!("writing `{}`", path.display()))?;
    readable_by_others(path)
}

/// The file goes through a temporary one, which is made for its owner alone.
fn readable_by_others(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let wanted = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(path, wanted).with_context(|| format!("making `{}` readable", path.display()))
}

/// The files that hold a directory's weights.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join(INDEX);
    if !index.exists() {
        let single = folder.join(SINGLE);
        if !single.exists() {
            bail!(Fault::Usage(format!("`{}` has neither `{SINGLE}` nor `{INDEX}`", folder.display())));
        }
        return Ok(vec![single]);
    }
    let text = std::fs::read(&index).with_context(|| format!("reading `{}`", index.display()))?;
    let index_json: Value = serde_json::from_slice(&text).with_context(|| format!("`{}` is not JSON", index.display()))?;
    let map = index_json["weight_map"].as_object().with_context(|| format!("`{}` has no `weight_map`", index.display()))?;
    let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
        bail!("`{}` names a file outside of its folder: `{name}`", index.display());
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The file keeps its names in a map of no order, and the first misfit should always be the same one.
fn sorted_names<'a>(file: &'a SafeTensors) -> Vec<&'a str> {
    let mut names = file.names();
    names.sort_unstable();
    names
}

pub(super) fn open(path: &Path) -> Result<Mmap> {
    let file = File::open(path).with_context(|| Fault::Usage(format!("`{}` cannot be read", path.display())))?;
    // SAFETY: nobody writes into a model's file that is there: ours are made under another name and renamed. One that is cut short while it is
    // mapped ends the process, as every mapped file does.
    unsafe { Mmap::map(&file) }.with_context(|| format!("mapping `{}`", path.display()))
}

fn read(name: &str, view: &TensorView, shape: &[i64], device: Device, kind: Kind) -> Result<Tensor> {
    let found: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
    ensure!(found == shape, Fault::Usage(format!("tensor `{name}` has the shape {found:?}; its config.json says {shape:?}")));
    let stored = kind_of(view.dtype()).with_context(|| format!("tensor `{name}`"))?;
    let tensor = Tensor::f_from_data_size(view.data(), shape, stored).with_context(|| format!("tensor `{name}`"))?;
    Ok(tensor.f_to_device(device)?.f_to_kind(kind)?)
}

fn kind_of(dtype: Dtype) -> Result<Kind> {
    match dtype {
        Dtype::F64 => Ok(Kind::Double),
        Dtype::F32 => Ok(Kind::Float),
        Dtype::F16 => Ok(Kind::Half),
        Dtype::BF16 => Ok(Kind::BFloat16),
        Dtype::I64 => Ok(Kind::Int64),
        Dtype::U8 => Ok(Kind::Uint8),
        other => bail!(Fault::Usage(format!("numbers of type {other:?} are not supported; use F64, F32, F16 or BF16"))),
    }
}

/// Tensors that checkpoints carry though nothing needs them: frequencies of old Llamas, and a head that is the embedding again.
fn ignored(name: &str, config: &ModelConfig) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight")
}

/// A tensor as the writer wants it: its bytes are made when they are asked for, so that one tensor at a time is copied.
struct Written<'a> {
    tensor: &'a Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Written<'_> {
    fn new(tensor: &Tensor) -> Result<Written<'_>> {
        let dtype = match tensor.kind() {
            Kind::Double => Dtype::F64,
            Kind::Float => Dtype::F32,
            Kind::Half => Dtype::F16,
            Kind::BFloat16 => Dtype::BF16,
            Kind::Int64 => Dtype::I64,
            other => bail!("numbers of type {other:?} cannot be written"),
        };
        Ok(Written { tensor, dtype, shape: tensor.size().iter().map(|size| *size as usize).collect() })
    }
}

impl View for Written<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = self.tensor.detach().to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0u8; self.data_len()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.dtype.bitsize() / 8
    }
}
