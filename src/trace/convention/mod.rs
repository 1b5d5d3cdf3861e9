//! Conventions: what a span's attributes mean.

use std::borrow::Cow;

use super::attributes::Attributes;
use super::span::{Format, Link, Origin, Status};

/// A span as its container gives it, before a convention has looked at its attributes.
#[derive(Debug, Clone, Default)]
pub struct RawSpan<'a> {
    pub origin: Origin,
    pub format: Format,
    /// Normalised: lower-case hex without `0x` for OpenTelemetry ids.
    pub trace_id: Option<String>,
    pub span_id: String,
    pub parent_span_id: Option<String>,
    pub name: Cow<'a, str>,
    pub start_ns: Option<i64>,
    pub end_ns: Option<i64>,
    pub time_precision_ns: Option<i64>,
    pub status: Status,
    pub status_message: Option<Cow<'a, str>>,
    pub attributes: Attributes<'a>,
    pub events: Vec<RawEvent<'a>>,
    pub links: Vec<Link>,
    pub service_name: Option<String>,
    pub scope_name: Option<Cow<'a, str>>,
    pub scope_version: Option<Cow<'a, str>>,
    /// JSON object of the resource's attributes.
    pub resource_json: Option<String>,
}

/// A span event, such as `exception`.
#[derive(Debug, Clone, Default)]
pub struct RawEvent<'a> {
    pub name: Cow<'a, str>,
    pub time_ns: Option<i64>,
    pub attributes: Attributes<'a>,
}
