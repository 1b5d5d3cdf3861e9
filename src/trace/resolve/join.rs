//! Which rollout every span belongs to (rule 7.5), found in one pass over all spans in memory bounded by their ids.
//!
//! Best evidence first: a stated rollout id; the trace, with the traces that span links join to it; traces stitched by what their LLM
//! calls say and hear, for agents that are instrumented at the client only, where each call is a trace of its own. Sessions and
//! conversations never make a rollout.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::trace::container::session;
use crate::trace::message::{Message, Role};
use crate::trace::span::{Format, Identity, Kind, Llm, Origin, Reward, Span};

/// Hash of an id. At 128 bits two ids do not meet by chance.
type Id = u128;

/// Collects ids, links and the hashes that stitch traces; never a span's contents. Each thread has its own.
///
/// Memory: about 100 bytes a trace, 24 bytes for each LLM call, and while the root of a trace is not seen, its calls' tool-call ids.
#[derive(Debug, Default)]
pub struct Joiner {
    traces: HashMap<Id, Trace>,
    /// Attempts of each stated rollout, with the last time that each was seen.
    attempts: BTreeMap<Box<str>, BTreeMap<Option<Box<str>>, i64>>,
    /// Traces of the spans that a record without a trace may be about, by the ids of LangSmith's runs and Phoenix's spans, and by response id.
    targets: HashMap<Id, Target>,
    /// The session that the first line of a session file names, with that line's number.
    files: HashMap<u32, (u64, Id)>,
}

#[derive(Debug, Default)]
struct Trace {
    id: Box<str>,
    /// Earliest start.
    start_ns: Option<i64>,
    /// Rollouts and attempts that its spans state.
    stated: BTreeSet<(Box<str>, Option<Box<str>>)>,
    links: BTreeSet<Id>,
    /// Has a root span that is no LLM call: nothing to stitch.
    rooted: bool,
    /// Has an LLM call without a parent.
    bare_call: bool,
    stitch: Stitch,
}

/// What the LLM calls of a trace say and hear, as hashes.
#[derive(Debug, Default)]
struct Stitch {
    /// Tool-call ids in responses.
    asked: Vec<Id>,
    /// Tool-call ids in prompts: of the latest assistant message that has any, and of the results.
    answered: Vec<Id>,
    /// Whole conversations after a response.
    said: Vec<Id>,
    /// Prompts up to their latest assistant message.
    heard: Vec<Id>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Trace(Id),
    Ambiguous,
}

impl Joiner {
    /// Takes note of one span.
    pub fn see(&mut self, span: &Span) {
        if let Some(rollout) = stated_rollout(span) {
            let latest = self.attempts.entry(rollout.into()).or_default().entry(stated_attempt(span)).or_insert(i64::MIN);
            *latest = (*latest).max(span.end_ns.or(span.start_ns).unwrap_or(i64::MIN));
        }
        let Some(trace_id) = trace_of(span) else { return };
        let id = hash(trace_id);
        if session::is_of_file(span.format) {
            note_file(&mut self.files, span.origin.file, (span.origin.line, id));
        }
        if matches!(span.format, Format::LangSmith | Format::Phoenix) && span.kind != Kind::Reward {
            note_target(&mut self.targets, hash(&span.span_id), Target::Trace(id));
        }
        if let Some(response) = span.llm.as_ref().and_then(|llm| llm.response_id.as_deref()) {
            note_target(&mut self.targets, hash(response), Target::Trace(id));
        }
        let trace = self.traces.entry(id).or_insert_with(|| Trace { id: trace_id.into(), ..Trace::default() });
        trace.start_ns = earliest(trace.start_ns, span.start_ns);
        if let Some(rollout) = stated_rollout(span) {
            trace.stated.insert((rollout.into(), stated_attempt(span)));
        }
        trace.links.extend(span.links.iter().map(|link| hash(&link.trace_id)).filter(|link| *link != id));
        let root = span.parent_span_id.is_none();
        match span.kind {
            Kind::Llm if root => {
                trace.bare_call = true;
                trace.stitch.see(span.llm.as_deref(), true);
            }
            Kind::Message => trace.stitch.see(span.llm.as_deref(), false),
            Kind::Llm | Kind::Reward | Kind::Rollout | Kind::Setup | Kind::Other => {}
            _ if root => trace.rooted = true,
            _ => {}
        }
        if trace.rooted {
            trace.stitch = Stitch::default();
        }
    }

    /// Adds what another thread has seen. The order of merging does not matter.
    pub fn merge(&mut self, other: Joiner) {
        for (rollout, attempts) in other.attempts {
            let known = self.attempts.entry(rollout).or_default();
            for (attempt, latest_ns) in attempts {
                let latest = known.entry(attempt).or_insert(i64::MIN);
                *latest = (*latest).max(latest_ns);
            }
        }
        for (id, target) in other.targets {
            note_target(&mut self.targets, id, target);
        }
        for (file, first) in other.files {
            note_file(&mut self.files, file, first);
        }
        for (id, theirs) in other.traces {
            let trace = self.traces.entry(id).or_insert_with(|| Trace { id: theirs.id, ..Trace::default() });
            trace.start_ns = earliest(trace.start_ns, theirs.start_ns);
            trace.stated.extend(theirs.stated);
            trace.links.extend(theirs.links);
            trace.rooted |= theirs.rooted;
            trace.bare_call |= theirs.bare_call;
            if trace.rooted {
                trace.stitch = Stitch::default();
            } else {
                trace.stitch.extend(theirs.stitch);
            }
        }
    }

    /// Decides.
    pub fn finish(self) -> Components {
        let attempts: HashMap<Box<str>, Attempts> =
            self.attempts.into_iter().map(|(rollout, attempts)| (rollout, Attempts::new(attempts))).collect();
        let mut traces: Vec<(Id, Trace)> = self.traces.into_iter().collect();
        // The first of a component gives it its name: the earliest, so that the name does not depend on the order of the input.
        traces.sort_by(|(_, a), (_, b)| (a.start_ns.unwrap_or(i64::MAX), &a.id).cmp(&(b.start_ns.unwrap_or(i64::MAX), &b.id)));
        let positions: HashMap<Id, u32> = traces.iter().zip(0..).map(|((id, _), position)| (*id, position)).collect();
        let mut sets = Sets::new(traces.len());
        for ((_, trace), position) in traces.iter().zip(0..) {
            for link in &trace.links {
                if let Some(other) = positions.get(link) {
                    sets.union(position, *other, RolloutSource::Links);
                }
            }
        }
        stitch(&traces, &mut sets);

        let mut stated: HashMap<u32, BTreeSet<Box<str>>> = HashMap::new();
        for ((_, trace), position) in traces.iter().zip(0..) {
            for (rollout, attempt) in &trace.stated {
                let name = name(&attempts, rollout, attempt.as_deref());
                stated.entry(sets.find(position)).or_default().insert(name);
            }
        }
        let mut unstated: HashMap<u32, (Box<str>, RolloutSource)> = HashMap::new();
        let mut rollouts = HashMap::with_capacity(traces.len());
        for ((id, trace), position) in traces.iter().zip(0..) {
            let root = sets.find(position);
            let of_component = stated.get(&root);
            let own: BTreeSet<Box<str>> =
                trace.stated.iter().map(|(rollout, attempt)| name(&attempts, rollout, attempt.as_deref())).collect();
            let only = [Some(&own), of_component]
                .into_iter()
                .flatten()
                .find(|names| names.len() == 1)
                .and_then(|names| names.first().cloned());
            let rollout = match only {
                Some(name) => (name, RolloutSource::Explicit),
                None => unstated.entry(root).or_insert_with(|| (trace.id.clone(), sets.source(root))).clone(),
            };
            rollouts.insert(*id, rollout);
        }
        let files = self.files.into_iter().map(|(file, (_, session))| (file, session)).collect();
        Components { rollouts, attempts, targets: self.targets, files }
    }
}

impl Stitch {
    /// * `whole`: the prompt is complete, so that conversations can be compared.
    fn see(&mut self, llm: Option<&Llm>, whole: bool) {
        let Some(llm) = llm else { return };
        let asked = llm.choices.iter().flat_map(|choice| &choice.message.tool_calls);
        self.asked.extend(asked.filter_map(|call| call.id.as_deref()).map(hash));
        let answered = llm.input.iter().rev().find(|message| !message.tool_calls.is_empty());
        self.answered
            .extend(answered.iter().flat_map(|message| &message.tool_calls).filter_map(|call| call.id.as_deref()).map(hash));
        self.answered.extend(llm.input.iter().filter_map(|message| message.tool_call_id.as_deref()).map(hash));
        if !whole {
            return;
        }
        let mut conversation = blake3::Hasher::new();
        let mut heard = None;
        for message in &llm.input {
            say(&mut conversation, message);
            if message.role == Role::Assistant {
                heard = Some(short(&conversation.finalize()));
            }
        }
        self.heard.extend(heard);
        for choice in &llm.choices {
            if choice.message.content.is_some() || !choice.message.tool_calls.is_empty() {
                let mut conversation = conversation.clone();
                say(&mut conversation, &choice.message);
                self.said.push(short(&conversation.finalize()));
            }
        }
    }

    fn extend(&mut self, other: Stitch) {
        self.asked.extend(other.asked);
        self.answered.extend(other.answered);
        self.said.extend(other.said);
        self.heard.extend(other.heard);
    }
}

/// Joins traces of which one goes on where another ended. A tool-call id must have been asked for in one trace only. A conversation
/// must have been reached by one trace and taken up by one: the samples of a group share their prompts, so that more would be a guess.
fn stitch(traces: &[(Id, Trace)], sets: &mut Sets) {
    let mut asked = BTreeMap::new();
    let mut said = BTreeMap::new();
    let mut heard = BTreeMap::new();
    let open = |trace: &Trace| trace.bare_call && !trace.rooted;
    for ((_, trace), position) in traces.iter().zip(0u32..).filter(|((_, trace), _)| open(trace)) {
        note_unique(&mut asked, &trace.stitch.asked, position);
        note_unique(&mut said, &trace.stitch.said, position);
        note_unique(&mut heard, &trace.stitch.heard, position);
    }
    for ((_, trace), position) in traces.iter().zip(0u32..).filter(|((_, trace), _)| open(trace)) {
        for id in &trace.stitch.answered {
            if let Some(Some(asker)) = asked.get(id) {
                sets.union(*asker, position, RolloutSource::Stitched);
            }
        }
        for id in &trace.stitch.heard {
            if let (Some(Some(before)), Some(Some(_))) = (said.get(id), heard.get(id)) {
                sets.union(*before, position, RolloutSource::Stitched);
            }
        }
    }
}

/// `None` marks what more than one trace has.
fn note_unique(map: &mut BTreeMap<Id, Option<u32>>, ids: &[Id], position: u32) {
    for id in ids {
        map.entry(*id)
            .and_modify(|known| {
                if *known != Some(position) {
                    *known = None;
                }
            })
            .or_insert(Some(position));
    }
}

/// The rollout of every span that a `Joiner` has seen.
#[derive(Debug, Default)]
pub struct Components {
    rollouts: HashMap<Id, (Box<str>, RolloutSource)>,
    attempts: HashMap<Box<str>, Attempts>,
    targets: HashMap<Id, Target>,
    /// Sessions of files whose lines do not name theirs.
    files: HashMap<u32, Id>,
}

/// How the rollout id of a span was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RolloutSource {
    Explicit,
    Trace,
    Links,
    Stitched,
    /// The record stands alone.
    Record,
}

impl RolloutSource {
    /// The text that the table holds.
    pub fn as_str(self) -> &'static str {
        match self {
            RolloutSource::Explicit => "explicit",
            RolloutSource::Trace => "trace",
            RolloutSource::Links => "links",
            RolloutSource::Stitched => "stitched",
            RolloutSource::Record => "record",
        }
    }
}

impl Components {
    /// A key of the rollout that a span belongs to: the same for all its spans, whatever the order of the input.
    pub fn key(&self, span: &Span) -> u64 {
        let id = match self.rollout(span) {
            Some((rollout, _)) => hash(&rollout),
            None if session::is_of_file(span.format) => hash(&span.origin.file.to_string()),
            None => hash(&format!("{}:{}", span.origin.file, span.origin.line)),
        };
        id as u64
    }

    /// The rollout of a span, `None` for a record that belongs to none that is known.
    pub fn rollout(&self, span: &Span) -> Option<(Box<str>, RolloutSource)> {
        let of_trace = |id: Id| self.rollouts.get(&id).cloned();
        if let Some(rollout) = stated_rollout(span) {
            let attempt = stated_attempt(span);
            return Some((name(&self.attempts, rollout, attempt.as_deref()), RolloutSource::Explicit));
        }
        if let Some(trace) = trace_of(span) {
            return of_trace(hash(trace));
        }
        if session::is_of_file(span.format) {
            return of_trace(*self.files.get(&span.origin.file)?);
        }
        // A part of a run that names the run alone, and a call that names its response alone.
        let own = span.part_json.is_some().then_some(span.span_id.as_str());
        let own = own.or_else(|| span.llm.as_ref()?.response_id.as_deref());
        if let Some(Target::Trace(trace)) = own.and_then(|id| self.targets.get(&hash(id))) {
            return of_trace(*trace);
        }
        let targets = span.rewards.iter().filter_map(|reward| reward.target.as_ref());
        for target in targets {
            let by_trace = target.trace_id.as_deref().map(hash);
            let by_id =
                [&target.span_id, &target.response_id].into_iter().flatten().find_map(|id| match self.targets.get(&hash(id)) {
                    Some(Target::Trace(trace)) => Some(*trace),
                    Some(Target::Ambiguous) | None => None,
                });
            if let Some(found) = by_trace.or(by_id).and_then(of_trace) {
                return Some(found);
            }
        }
        None
    }
}

/// Everything of a span that [`Components::rollout`] looks at, so that spans that say the same of their rollout have equal locators.
///
/// * A record without a stated rollout and a trace keeps its origin: where it stands alone, that is its name.
pub fn locator(span: &Span) -> Span {
    let alone = stated_rollout(span).is_none() && trace_of(span).is_none();
    let mut locator = Span {
        format: span.format,
        trace_id: span.trace_id.clone(),
        identity: Identity {
            rollout_id: span.identity.rollout_id.clone(),
            attempt_id: span.identity.attempt_id.clone(),
            ..Identity::default()
        },
        ..Span::default()
    };
    if alone {
        locator.origin = span.origin;
        if session::is_of_file(span.format) {
            locator.origin = Origin { file: span.origin.file, ..Origin::default() };
            return locator;
        }
        locator.span_id = span.span_id.clone();
        locator.part_json = span.part_json.as_ref().map(|_| Box::default());
        let response = span.llm.as_ref().and_then(|llm| llm.response_id.clone());
        locator.llm = response.map(|id| Box::new(Llm { response_id: Some(id), ..Llm::default() }));
        let targets = span.rewards.iter().map(|reward| Reward { target: reward.target.clone(), ..Reward::default() });
        locator.rewards = targets.collect();
    }
    locator
}

/// Attempts of one stated rollout.
#[derive(Debug)]
struct Attempts {
    /// Where there is more than one, each is a rollout of its own, and records that name none are about the last.
    last: Option<Box<str>>,
}

impl Attempts {
    fn new(seen: BTreeMap<Option<Box<str>>, i64>) -> Self {
        let named = seen.into_iter().filter_map(|(attempt, latest_ns)| Some((latest_ns, attempt?)));
        let mut named: Vec<(i64, Box<str>)> = named.collect();
        named.sort();
        Self { last: if named.len() > 1 { named.pop().map(|(_, attempt)| attempt) } else { None } }
    }
}

/// A rollout's id: as stated, followed by `/<attempt>` where several attempts at it were recorded.
fn name(attempts: &HashMap<Box<str>, Attempts>, rollout: &str, attempt: Option<&str>) -> Box<str> {
    match attempts.get(rollout).and_then(|attempts| attempts.last.as_deref()) {
        Some(last) => format!("{rollout}/{}", attempt.unwrap_or(last)).into(),
        None => rollout.into(),
    }
}

/// Disjoint sets of traces.
struct Sets {
    parents: Vec<u32>,
    sources: Vec<RolloutSource>,
}

impl Sets {
    fn new(count: usize) -> Self {
        Self { parents: (0..count as u32).collect(), sources: vec![RolloutSource::Trace; count] }
    }

    fn find(&mut self, mut position: u32) -> u32 {
        while self.parents[position as usize] != position {
            let grandparent = self.parents[self.parents[position as usize] as usize];
            self.parents[position as usize] = grandparent;
            position = grandparent;
        }
        position
    }

    /// The smaller position stays the root: it is the earlier trace.
    fn union(&mut self, a: u32, b: u32, source: RolloutSource) {
        let (a, b) = (self.find(a), self.find(b));
        if a != b {
            let (root, child) = (a.min(b) as usize, a.max(b) as usize);
            self.parents[child] = root as u32;
            self.sources[root] = self.sources[root].max(self.sources[child]).max(source);
        }
    }

    fn source(&self, root: u32) -> RolloutSource {
        self.sources[root as usize]
    }
}

/// Whether two spans have one [`locator`], as far as that shows without making them: false where it takes more than a trace id.
pub fn have_one_locator(a: &Span, b: &Span) -> bool {
    trace_of(a).is_some()
        && a.trace_id == b.trace_id
        && a.format == b.format
        && a.identity.rollout_id == b.identity.rollout_id
        && a.identity.attempt_id == b.identity.attempt_id
}

fn stated_rollout(span: &Span) -> Option<&str> {
    span.identity.rollout_id.as_deref().filter(|id| !id.is_empty())
}

fn stated_attempt(span: &Span) -> Option<Box<str>> {
    span.identity.attempt_id.as_deref().filter(|id| !id.is_empty()).map(Into::into)
}

fn trace_of(span: &Span) -> Option<&str> {
    span.trace_id.as_deref().filter(|id| !id.is_empty())
}

fn earliest(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The line that comes first counts, whatever thread saw it.
fn note_file(files: &mut HashMap<u32, (u64, Id)>, file: u32, first: (u64, Id)) {
    files.entry(file).and_modify(|known| *known = first.min(*known)).or_insert(first);
}

fn note_target(targets: &mut HashMap<Id, Target>, id: Id, target: Target) {
    targets
        .entry(id)
        .and_modify(|known| {
            if *known != target {
                *known = Target::Ambiguous
            }
        })
        .or_insert(target);
}

/// Adds a message to a conversation. Tool-call ids are left out: some bridges write another id into the history than the response had.
fn say(conversation: &mut blake3::Hasher, message: &Message) {
    conversation.update(&[message.role as u8]);
    let mut field = |text: &str| {
        conversation.update(&(text.len() as u64).to_le_bytes());
        conversation.update(text.as_bytes());
    };
    field(message.content.as_deref().unwrap_or_default());
    for call in &message.tool_calls {
        field(&call.name);
        field(&call.arguments);
    }
}

fn hash(text: &str) -> Id {
    short(&blake3::hash(text.as_bytes()))
}

fn short(hash: &blake3::Hash) -> Id {
    let (first, _) = hash.as_bytes().split_first_chunk::<16>().expect("a hash has 32 bytes");
    Id::from_le_bytes(*first)
}
