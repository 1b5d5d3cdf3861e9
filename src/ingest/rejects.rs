//! Records that were set aside, on their way to the table `rejects`: kept in a temporary file, since a broken file can be all rejects.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result};

use super::columns::RejectRow;

/// Every reject of a run, by position in the input. Memory: 40 bytes a record.
#[derive(Default)]
pub struct Rejects {
    file: Option<File>,
    end: u64,
    entries: Vec<Entry>,
    codes: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    file: u32,
    line: u64,
    offset: u64,
    at: u64,
    length: u32,
}

impl Rejects {
    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn extend(&mut self, rows: Vec<RejectRow>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile().context("cannot make a temporary file for rejects")?);
        }
        let file = self.file.as_mut().expect("it was made just now");
        for row in rows {
            let bytes = postcard::to_stdvec(&row).context("a reject cannot be written")?;
            file.write_all(&bytes).context("cannot write a temporary file; is the disk full?")?;
            let entry = Entry { file: row.file, line: row.line, offset: row.offset, at: self.end, length: bytes.len() as u32 };
            self.entries.push(entry);
            self.end += bytes.len() as u64;
            *self.codes.entry(row.code).or_default() += 1;
        }
        Ok(())
    }

    /// How many of each reason.
    pub fn by_code(&self) -> BTreeMap<String, u64> {
        self.codes.clone()
    }

    /// The first few by position in the input.
    pub fn first(&self, count: usize) -> Result<Vec<RejectRow>> {
        let mut entries = self.entries.clone();
        entries.sort_unstable();
        entries.truncate(count);
        self.rows(&entries)
    }

    /// Gives all rows by position in the input, so many at once.
    pub fn in_order(mut self, count: usize, mut take: impl FnMut(&[RejectRow]) -> Result<()>) -> Result<()> {
        self.entries.sort_unstable();
        self.entries.chunks(count).try_for_each(|entries| take(&self.rows(entries)?))
    }

    fn rows(&self, entries: &[Entry]) -> Result<Vec<RejectRow>> {
        let Some(mut file) = self.file.as_ref() else { return Ok(Vec::new()) };
        let mut bytes = Vec::new();
        let mut rows = Vec::with_capacity(entries.len());
        for entry in entries {
            bytes.resize(entry.length as usize, 0);
            file.seek(SeekFrom::Start(entry.at))
                .and_then(|_| file.read_exact(&mut bytes))
                .context("cannot read a temporary file back")?;
            rows.push(postcard::from_bytes(&bytes).context("a reject cannot be read back")?);
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_in_the_order_of_the_input() {
        let row = |file, line| RejectRow {
            file,
            line,
            offset: 0,
            size_bytes: 1,
            code: "json".into(),
            reason: String::new(),
            raw: None,
        };
        let mut rejects = Rejects::default();
        rejects.extend(vec![row(1, 1), row(0, 9)]).unwrap();
        rejects.extend(vec![row(0, 2)]).unwrap();
        assert_eq!(rejects.by_code(), BTreeMap::from([("json".to_owned(), 3)]));
        let mut seen = Vec::new();
        rejects
            .in_order(2, |rows| {
                seen.extend(rows.iter().map(|row| (row.file, row.line)));
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, [(0, 2), (0, 9), (1, 1)]);
    }
}
