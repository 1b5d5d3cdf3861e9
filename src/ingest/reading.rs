//! The first pass: every file into spans, in parallel over files and over blocks of one file.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use rayon::prelude::*;
use tokio::runtime::Handle;

use super::columns::RejectRow;
use super::rejects::Rejects;
use super::source::Source;
use super::spill::{Spill, Writer};
use crate::progress::Bar;
use crate::stage::Context;
use crate::trace::blocks::{Block, Blocks};
use crate::trace::container::{ReadOptions, Sink};
use crate::trace::reject::Reject;
use crate::trace::resolve::{Components, Joiner};

/// What the first pass gives the second.
pub struct Read {
    pub spill: Spill,
    pub components: Components,
    pub rejects: Rejects,
    pub records: u64,
}

/// Reads every source. A file that cannot be read is one reject; the rest of a file that breaks off is one reject.
pub fn read(context: &Context, sources: &[Source], runtime: &Handle) -> Result<Read> {
    let total: u64 = sources.iter().map(|source| source.size_bytes).sum();
    let spill = Spill::new();
    let pass = Pass {
        context,
        runtime,
        spill: &spill,
        options: ReadOptions { task_id_keys: context.config.ingest.task_id_keys.clone() },
        bar: context.progress.bytes("reading", total),
        joiner: Mutex::default(),
        rejects: Mutex::default(),
        records: AtomicU64::new(0),
    };
    sources.par_iter().enumerate().try_for_each(|(index, source)| pass.file(index as u32, source))?;
    let Pass { joiner, rejects, records, .. } = pass;
    let joiner = joiner.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let rejects = rejects.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(Read { spill, components: joiner.finish(), rejects, records: records.into_inner() })
}

struct Pass<'a> {
    context: &'a Context,
    runtime: &'a Handle,
    spill: &'a Spill,
    options: ReadOptions,
    bar: Bar,
    joiner: Mutex<Joiner>,
    rejects: Mutex<Rejects>,
    records: AtomicU64,
}

impl Pass<'_> {
    fn file(&self, index: u32, source: &Source) -> Result<()> {
        let opened = source.open(self.runtime).and_then(super::decode::decode);
        let reader = match opened {
            Ok(reader) => reader,
            Err(error) => return self.whole_file(index, Reject::Unreadable(error)),
        };
        let blocks = Blocks::new(reader, index, self.context.config.ingest.max_record_bytes);
        blocks
            .par_bridge()
            .try_fold(|| (self.spill.writer(), Joiner::default()), |state, block| self.block(state, block))
            .try_for_each(|state: Result<_>| {
                let (writer, joiner) = state?;
                writer.finish();
                self.joiner.lock().unwrap_or_else(std::sync::PoisonError::into_inner).merge(joiner);
                Ok(())
            })
    }

    fn block<'s>(&self, (mut writer, mut joiner): (Writer<'s>, Joiner), block: Block) -> Result<(Writer<'s>, Joiner)> {
        self.context.stop.check()?;
        let mut sink = Sink::default();
        let stored_bytes = block.stored_bytes();
        let records = block.read(&self.options, &mut sink, self.context.config.ingest.max_record_bytes);
        self.records.fetch_add(records, Ordering::Relaxed);
        sink.spans.iter().for_each(|span| joiner.see(span));
        writer.push(sink.spans)?;
        let rejects = sink.rejects.into_iter().map(|rejected| RejectRow {
            file: rejected.origin.file,
            line: rejected.origin.line,
            offset: rejected.origin.offset,
            size_bytes: rejected.size_bytes,
            code: rejected.reject.code().to_owned(),
            reason: rejected.reject.reason(),
            raw: Some(rejected.raw),
        });
        self.set_aside(rejects.collect())?;
        self.bar.inc(stored_bytes);
        Ok((writer, joiner))
    }

    fn whole_file(&self, file: u32, reject: Reject) -> Result<()> {
        self.records.fetch_add(1, Ordering::Relaxed);
        let (code, reason) = (reject.code().to_owned(), reject.reason());
        self.set_aside(vec![RejectRow { file, line: 0, offset: 0, size_bytes: 0, code, reason, raw: None }])
    }

    fn set_aside(&self, rows: Vec<RejectRow>) -> Result<()> {
        self.rejects.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(rows)
    }
}
