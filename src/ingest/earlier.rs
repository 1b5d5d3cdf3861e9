//! The files that a batch was read from before, where another run brings more: late spans, a score of the day after, rotated logs.

use std::io::{self, Read as _};

use anyhow::{Context as _, Result};
use tokio::runtime::Handle;

use super::decode::decode;
use super::source::{self, Source};
use crate::exit::Fault;
use crate::lake::Input;

/// What becomes of the files that the batch was read from before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// They count only where they are given again.
    Replace,
    /// They are read again, beside those that are given.
    Keep,
}

/// The files of before that `given` does not name and that are still there. [`check`] says whether they are what they were.
pub async fn missing(earlier: &[Input], given: &[Source]) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for input in earlier.iter().filter(|input| !given.iter().any(|source| source.name == input.name)) {
        found.extend(source::find_again(&input.name).await?);
    }
    Ok(found)
}

/// Every file of before must be among the inputs still: as it was, longer than it was, or under another name (and compressed, as logs
/// are rotated). Otherwise spans that the batch holds now would be gone from it.
pub fn check(earlier: &[Input], sources: &[Source], inputs: &[Input], runtime: &Handle) -> Result<()> {
    for before in earlier {
        if inputs.iter().any(|input| input.hash == before.hash) {
            continue;
        }
        // The file of that name first, then those that are not shorter, or compressed.
        let mut candidates: Vec<&Source> = sources.iter().filter(|source| may_begin_with(source, before)).collect();
        candidates.sort_by_key(|source| source.name != before.name);
        let mut held = false;
        for source in candidates {
            held = begins_with(source, before, runtime).with_context(|| format!("cannot read `{}`", source.name))?;
            if held {
                break;
            }
        }
        if !held {
            return Err(Fault::Failed(format!(
                "the batch was read from `{}`, and no file has what it had then; give the name that it has now, or ingest all files of the \
                 batch together, without `--add`",
                before.name
            ))
            .into());
        }
    }
    Ok(())
}

/// Files that another set of files leaves out.
pub fn left_out(earlier: &[Input], inputs: &[Input]) -> u64 {
    let stays = |before: &&Input| inputs.iter().any(|input| input.name == before.name || input.hash == before.hash);
    (earlier.len() - earlier.iter().filter(stays).count()) as u64
}

fn may_begin_with(source: &Source, before: &Input) -> bool {
    source.size_bytes >= before.size_bytes || source.looks_compressed()
}

/// Whether a file, decompressed, begins with what another one was.
fn begins_with(source: &Source, before: &Input, runtime: &Handle) -> io::Result<bool> {
    let mut hasher = blake3::Hasher::new();
    let read = hasher.update_reader(decode(source.open(runtime)?)?.take(before.size_bytes));
    // What cannot be decompressed to its end is not what it was.
    Ok(read.is_ok() && hasher.count() == before.size_bytes && hasher.finalize().to_hex().as_str() == before.hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, hash: &str) -> Input {
        Input { name: name.to_owned(), tables: Vec::new(), hash: hash.to_owned(), size_bytes: 1 }
    }

    #[test]
    fn a_file_is_left_out_by_name_and_content() {
        let before = [input("a", "1"), input("b", "2"), input("c", "3")];
        assert_eq!(left_out(&before, &[input("a", "9"), input("b.1", "2")]), 1);
        assert_eq!(left_out(&[], &[input("a", "1")]), 0);
    }
}
