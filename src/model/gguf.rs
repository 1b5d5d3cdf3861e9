//! GGUF files: what llama.cpp keeps a model in. Here the container: metadata and where each tensor lies; nothing is copied until it is asked for.

mod import;
mod quantised;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use memmap2::Mmap;

use super::safetensors::open;
use crate::exit::Fault;

/// An opened file.
pub struct Gguf {
    pub path: PathBuf,
    /// Everything that the file says of its model and its tokenizer, such as `general.architecture` and `tokenizer.ggml.tokens`.
    pub metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Info>,
    bytes: Mmap,
    /// Where the tensors begin.
    data: usize,
}

/// One value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    List(Vec<Value>),
}

impl Value {
    /// The number, where it is a whole one.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Unsigned(number) => i64::try_from(*number).ok(),
            Value::Signed(number) => Some(*number),
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(number) => Some(*number),
            other => other.as_i64().map(|number| number as f64),
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self { Some(*value) } else { None }
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    pub fn as_list(&self) -> Option<&[Value]> {
        if let Value::List(values) = self { Some(values) } else { None }
    }
}

/// A tensor in the file.
#[derive(Debug)]
struct Info {
    /// Outermost axis first, as everywhere but in the file.
    shape: Vec<i64>,
    /// The number of its type in ggml.
    kind: u32,
    /// From where the tensors begin.
    offset: u64,
}

impl Gguf {
    pub fn open(path: &Path) -> Result<Gguf> {
        let bytes = open(path)?;
        let at = || format!("`{}` is no GGUF file that can be read", path.display());
        let mut cursor = Cursor { bytes: &bytes, at: 0 };
        ensure!(cursor.take(4).with_context(at)? == b"GGUF", Fault::Usage(format!("`{}` is no GGUF file", path.display())));
        let version = cursor.u32().with_context(at)?;
        ensure!(
            matches!(version, 2 | 3),
            Fault::Usage(format!("`{}` has GGUF version {version}; 2 and 3 are read", path.display()))
        );
        let (tensor_count, value_count) = (cursor.u64().with_context(at)?, cursor.u64().with_context(at)?);
        let mut metadata = BTreeMap::new();
        for _ in 0..value_count {
            let key = cursor.text().with_context(at)?;
            let kind = cursor.u32().with_context(at)?;
            let value = cursor.value(kind, 0).with_context(|| format!("`{key}`")).with_context(at)?;
            metadata.insert(key, value);
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let (name, info) = cursor.info().with_context(at)?;
            tensors.insert(name, info);
        }
        let alignment = metadata.get("general.alignment").and_then(Value::as_i64).unwrap_or(32).max(1) as usize;
        let data = cursor.at.next_multiple_of(alignment);
        Ok(Gguf { path: path.to_owned(), metadata, tensors, bytes, data })
    }

    /// A value that has to be there.
    pub fn required(&self, key: &str) -> Result<&Value> {
        self.metadata.get(key).with_context(|| Fault::Usage(format!("`{}` has no `{key}`", self.path.display())))
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> Result<&str> {
        self.required("general.architecture")?.as_str().context("`general.architecture` is no text")
    }
}

/// Reads a file from its start; every step fails where the file ends.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.with_context(|| format!("it ends at byte {}, where more was to come", self.bytes.len()))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many as were asked for"))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String> {
        let length = usize::try_from(self.u64()?)?;
        Ok(std::str::from_utf8(self.take(length)?).context("a text is not UTF-8")?.to_owned())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>()?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => {
                let (kind, length) = (self.u32()?, self.u64()?);
                ensure!(depth < 4, "lists within lists within lists");
                // Every value takes a byte at least, so that a length from a damaged file asks for no more memory than the file has.
                ensure!(length <= (self.bytes.len() - self.at) as u64, "a list of {length} values is longer than the file");
                Value::List((0..length).map(|_| self.value(kind, depth + 1)).collect::<Result<_>>()?)
            }
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => bail!("values of type {other} are not known"),
        })
    }

    fn info(&mut self) -> Result<(String, Info)> {
        let name = self.text()?;
        let axes = self.u32()?;
        ensure!(axes <= 4, "tensor `{name}` has {axes} axes");
        let mut shape = (0..axes).map(|_| Ok(i64::try_from(self.u64()?)?)).collect::<Result<Vec<i64>>>()?;
        shape.reverse();
        Ok((name, Info { shape, kind: self.u32()?, offset: self.u64()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of one value and no tensor, by hand from the format's description.
    fn small() -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend([0u64, 1].map(u64::to_le_bytes).concat());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(b"k");
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(8u32.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        for text in ["a", "bc"] {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    #[test]
    fn a_file_that_ends_too_soon_is_refused_wherever_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let whole = small();
        for length in 1..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(Gguf::open(&path).is_err(), "{length} bytes");
        }
        std::fs::write(&path, &whole).unwrap();
        let expected = Value::List(vec![Value::Text("a".into()), Value::Text("bc".into())]);
        assert_eq!(Gguf::open(&path).unwrap().metadata["k"], expected);
    }

    #[test]
    fn a_list_longer_than_the_file_asks_for_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let mut bytes = small();
        let at = 4 + 4 + 16 + 8 + 1 + 4 + 4;
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let error = Gguf::open(&path).err().unwrap();
        assert!(format!("{error:#}").contains("longer than the file"), "{error:#}");
    }
}
