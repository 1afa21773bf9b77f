//! Answers that are longer than memory: lines or list elements, made on a blocking thread as fast as they are read.
//!
//! Invariant: an error before the first bytes decides the status; a later one is the last thing in the body.

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::mpsc;

use super::error::{ApiCode, ApiError};

/// Bytes sent at a time.
const CHUNK: usize = 32 << 10;
/// Chunks that may wait for the reader.
const CHUNKS: usize = 4;

/// How a list of records is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// A record a line.
    Lines,
    /// `{"records":[..]}`.
    Object,
}

impl Form {
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Object => "application/json",
        }
    }
}

type Chunk = Result<Bytes, ApiError>;

/// Where records go.
pub(super) struct Sink {
    form: Form,
    buffer: String,
    empty: bool,
    chunks: mpsc::Sender<Chunk>,
}

impl Sink {
    /// Has `write` append one element. Answers false once nobody reads any more.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut String)) -> bool {
        if self.form == Form::Object {
            self.buffer.push_str(if self.empty { "{\"records\":[" } else { "," });
        }
        self.empty = false;
        write(&mut self.buffer);
        if self.form == Form::Lines {
            self.buffer.push('\n');
        }
        self.buffer.len() < CHUNK || self.send()
    }

    fn send(&mut self) -> bool {
        let chunk = Bytes::from(std::mem::replace(&mut self.buffer, String::with_capacity(CHUNK + 1_024)));
        self.chunks.blocking_send(Ok(chunk)).is_ok()
    }

    fn end(mut self) {
        if self.form == Form::Object {
            self.buffer.push_str(if self.empty { "{\"records\":[]}" } else { "]}" });
        }
        self.send();
    }
}

/// Answers with what `work` pushes.
pub(super) async fn records(
    form: Form,
    work: impl FnOnce(&mut Sink) -> Result<(), ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let (chunks, mut received) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let mut sink = Sink { form, buffer: String::new(), empty: true, chunks: chunks.clone() };
        match work(&mut sink) {
            Ok(()) => sink.end(),
            Err(error) => {
                // What was found before the error still goes out, if anything has.
                let _ = sink.buffer.is_empty() || sink.empty || sink.send();
                let _ = chunks.blocking_send(Err(error));
            }
        }
    });
    let first = received.recv().await;
    let first = first.unwrap_or_else(|| Err(ApiError::new(ApiCode::Failed, "reading stopped")))?;
    let rest = stream::unfold(received, |mut received| async move {
        received.recv().await.map(|chunk| (chunk, received))
    });
    let body = stream::once(async { Ok(first) }).chain(rest).map(move |chunk| {
        Ok::<_, std::convert::Infallible>(chunk.unwrap_or_else(|error| trailer(form, &error)))
    });
    Ok(with_type(form, Body::from_stream(body)))
}

fn trailer(form: Form, error: &ApiError) -> Bytes {
    let text = error.to_json().to_string();
    match form {
        Form::Lines => format!("{text}\n").into(),
        Form::Object => format!("],{}", text.trim_start_matches('{')).into(),
    }
}

/// A body of lines.
pub(super) fn lines(body: Body) -> Response {
    with_type(Form::Lines, body)
}

fn with_type(form: Form, body: Body) -> Response {
    ([(header::CONTENT_TYPE, form.content_type())], body).into_response()
}
