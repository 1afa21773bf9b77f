//! Many lines, sent a transaction at a time.
//!
//! Invariant: when a line is refused, everything before it has been taken and nothing behind it.

use axum::body::Bytes;
use axum::http::Method;

use crate::client::Client;
use crate::output::CliError;

/// Lines in one transaction.
const LINES: usize = 1_000;
/// Bytes in one transaction, at most one line more.
const BYTES: usize = 4 << 20;

/// Lines on their way to one database.
pub(super) struct Chunks {
    client: Client,
    path: String,
    /// What people call the source, and one item of it.
    source: String,
    unit: &'static str,
    body: Vec<u8>,
    /// The number of each line, and where it ends in `body`.
    ends: Vec<(u64, usize)>,
    done: u64,
}

impl Chunks {
    pub(super) fn new(client: Client, path: String, source: String, unit: &'static str) -> Self {
        Self { client, path, source, unit, body: Vec::new(), ends: Vec::new(), done: 0 }
    }

    /// Lines taken so far.
    pub(super) const fn done(&self) -> u64 {
        self.done
    }

    /// Adds a line without a line end; sends if that makes a full transaction.
    pub(super) async fn push(&mut self, number: u64, line: &[u8]) -> Result<(), CliError> {
        self.body.extend_from_slice(line);
        self.body.push(b'\n');
        self.ends.push((number, self.body.len()));
        if self.ends.len() >= LINES || self.body.len() >= BYTES { self.flush().await } else { Ok(()) }
    }

    /// Sends what waits.
    pub(super) async fn flush(&mut self) -> Result<(), CliError> {
        let body = Bytes::from(std::mem::take(&mut self.body));
        let ends = std::mem::take(&mut self.ends);
        if ends.is_empty() {
            return Ok(());
        }
        let Err(failure) = self.client.ask_indexed(Method::POST, &self.path, body.clone().into()).await
        else {
            self.done += ends.len() as u64;
            return Ok(());
        };
        let mut error = failure.error;
        let Some((index, (number, _))) = failure.index.and_then(|index| Some((index, *ends.get(index)?)))
        else {
            return Err(error);
        };
        if let Some((_, end)) = index.checked_sub(1).and_then(|last| ends.get(last)) {
            self.client.ask(Method::POST, &self.path, body.slice(..*end).into()).await?;
            self.done += index as u64;
        }
        error.message = format!("{}, {} {number}: {}", self.source, self.unit, error.message);
        Err(error)
    }
}
