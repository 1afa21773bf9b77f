//! Answers that are longer than memory: lines or list elements, made on a blocking thread as fast as they are read.
//!
//! Invariants: an error before the first bytes decides the status; a later one is the last thing in the body; answers to users
//! that are not read keep only a part of the threads busy that everything else needs as well, and not for long.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::error::{ApiCode, ApiError};

/// Bytes sent at a time.
const CHUNK: usize = 32 << 10;
/// Chunks that may wait for the reader.
const CHUNKS: usize = 4;

/// Answers to users that are read at one time.
const USER_ANSWERS: usize = 64;
/// How long another one waits for its turn, and how long a user may leave a chunk lying.
const USER_TURN: Duration = Duration::from_secs(5);
const USER_READS: Duration = Duration::from_secs(30);

static USER_TURNS: Semaphore = Semaphore::const_new(USER_ANSWERS);

/// For whom an answer is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Audience {
    /// Who runs the node: it may be read at leisure.
    #[default]
    Admin,
    /// Somebody who has logged in.
    User,
}

impl Audience {
    /// Waits until a chunk can be taken. Answers false once nobody reads any more. Blocks, inside a tokio runtime.
    fn give(self, chunks: &mpsc::Sender<Chunk>, chunk: Chunk) -> bool {
        match self {
            Self::Admin => chunks.blocking_send(chunk).is_ok(),
            Self::User => Handle::current().block_on(chunks.send_timeout(chunk, USER_READS)).is_ok(),
        }
    }
}

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
    audience: Audience,
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
        self.audience.give(&self.chunks, Ok(chunk))
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
    records_for(Audience::Admin, form, work).await
}

/// [`records`] for somebody.
pub(super) async fn records_for(
    audience: Audience,
    form: Form,
    work: impl FnOnce(&mut Sink) -> Result<(), ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let turn = match audience {
        Audience::Admin => None,
        Audience::User => {
            let turn = tokio::time::timeout(USER_TURN, USER_TURNS.acquire()).await;
            Some(turn.ok().and_then(Result::ok).ok_or_else(|| {
                ApiError::new(ApiCode::Unavailable, "too many answers are being read at one time: try again")
            })?)
        }
    };
    let (chunks, mut received) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut sink = Sink { form, buffer: String::new(), empty: true, chunks: chunks.clone(), audience };
        match work(&mut sink) {
            Ok(()) => sink.end(),
            Err(error) => {
                // What was found before the error still goes out, if anything has.
                let _ = sink.buffer.is_empty() || sink.empty || sink.send();
                audience.give(&chunks, Err(error));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer without an end.
    async fn asked(audience: Audience) -> Result<Response, ApiError> {
        records_for(audience, Form::Lines, |sink| {
            while sink.push(|out| out.push_str("0123456789")) {}
            Ok(())
        })
        .await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn answers_that_users_leave_unread_leave_room_for_everything_else() {
        let mut unread = Vec::new();
        for _ in 0..USER_ANSWERS {
            unread.push(asked(Audience::User).await.unwrap());
        }
        assert_eq!(asked(Audience::User).await.unwrap_err().code, ApiCode::Unavailable);
        assert!(asked(Audience::Admin).await.is_ok(), "who runs the node is answered");
        unread.pop();
        assert!(asked(Audience::User).await.is_ok(), "whose answer is not wanted any more gives way");
    }
}
