//! Server-sent events: a task writes them, the body of the answer carries them, and whichever ends first ends the other.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Events that may wait for a slow client.
const WAITING: usize = 64;

/// Where a task writes the events of one answer.
pub struct Events(Sender<Bytes>);

/// The client has gone away: nobody reads further events.
#[derive(Debug)]
pub struct Gone;

impl Events {
    /// An event without a name, as chat completions and completions have them.
    pub async fn data(&self, data: &impl Serialize) -> Result<(), Gone> {
        self.send(format!("data: {}\n\n", json(data))).await
    }

    /// An event with a name, as the Responses API has them.
    pub async fn named(&self, name: &str, data: &impl Serialize) -> Result<(), Gone> {
        self.send(format!("event: {name}\ndata: {}\n\n", json(data))).await
    }

    /// The end that chat completions and completions have.
    pub async fn done(&self) -> Result<(), Gone> {
        self.send("data: [DONE]\n\n".to_owned()).await
    }

    /// Bytes of events, as another server wrote them.
    pub async fn raw(&self, bytes: Bytes) -> Result<(), Gone> {
        self.0.send(bytes).await.map_err(|_| Gone)
    }

    /// Waits until the client has gone away.
    pub async fn gone(&self) {
        self.0.closed().await;
    }

    async fn send(&self, event: String) -> Result<(), Gone> {
        self.raw(event.into()).await
    }
}

/// A text without line breaks, so that an event is one line.
fn json(data: &impl Serialize) -> String {
    serde_json::to_string(data).expect("what a server answers can be written as JSON")
}

/// The two ends of a streamed answer.
pub fn stream() -> (Events, Response) {
    let (sender, receiver) = channel(WAITING);
    let next =
        |mut receiver: Receiver<Bytes>| async move { receiver.recv().await.map(|bytes| (Ok::<_, Infallible>(bytes), receiver)) };
    let mut response = Response::new(Body::from_stream(futures::stream::unfold(receiver, next)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    (Events(sender), response)
}
