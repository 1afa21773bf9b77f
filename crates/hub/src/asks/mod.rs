//! Questions of other nodes to the databases that this node serves. Protocol: `docs/spec/remote.md`.
//!
//! Invariants: a question is answered under the access rules of whoever asks, proven as for a session; it has a
//! connection of its own, so that no session waits for it; it ends when its time is over, when its asker goes away or
//! must go, and holds no more of its answer than a few pieces that wait to be sent.

mod answer;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use blazedb::{Connection, Patience, Verdict};
use blazedb_core::limits::{ASK_IDLE_MS, HANDSHAKE_MS, MAX_ASKS, MAX_WAITING_ASKS, ROWS_BYTES};
use blazedb_core::wire::ask::{Answer, Ask, AskCode, Question, Row, RowsEncoder, Wanted};
use blazedb_transport::FrameReceiver;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use crate::door::Door;
use answer::{AskFailure, Readable, TOO_SLOW};

/// Pieces of an answer that may wait to be sent.
const PIECES: usize = 2;
/// How often a read that is to end is told so, until it does.
const END_EVERY: Duration = Duration::from_millis(20);

/// Answers questions, a bounded number at a time.
pub(crate) struct Answerer {
    turns: Semaphore,
    waiting: AtomicUsize,
    /// How long a question may keep a database busy at one stretch.
    stretch: Duration,
}

/// How the answer to a question ended.
enum Ended {
    /// It was answered, or the asker was told why not: another question may follow.
    Told,
    /// The asker is gone, or has to go.
    Over,
}

impl Answerer {
    /// Questions may keep a database busy for `stretch` at one stretch.
    pub(crate) fn new(stretch: Duration) -> Self {
        Self { turns: Semaphore::new(MAX_ASKS), waiting: AtomicUsize::new(0), stretch }
    }

    /// Answers the questions of one connection, one after the other, until it ends. Answers why it was sent away, if it
    /// was.
    pub(crate) async fn serve(
        &self,
        door: &Arc<Door>,
        mut connection: Connection,
    ) -> Option<(&'static str, String)> {
        let mut sent_away = None;
        let mut wait = Duration::from_millis(HANDSHAKE_MS);
        while let Ok(Ok(Some(frame))) = timeout(wait, connection.receiver.recv()).await {
            let ended = match Ask::decode(&frame) {
                Ok(ask) => self.answer(door, ask, &mut connection, &mut sent_away).await,
                Err(error) => {
                    let reason = format!("not a question that this version knows: {error}");
                    let _ = say(&mut connection, &Answer::Failed(AskCode::Invalid, reason)).await;
                    Ended::Over
                }
            };
            if matches!(ended, Ended::Over) {
                break;
            }
            wait = Duration::from_millis(ASK_IDLE_MS);
        }
        let _ = connection.sender.close().await;
        sent_away
    }

    async fn answer(
        &self,
        door: &Arc<Door>,
        ask: Ask,
        connection: &mut Connection,
        sent_away: &mut Option<(&'static str, String)>,
    ) -> Ended {
        let last = match self.rows(door, ask, connection).await {
            Ok(()) => Answer::End,
            Err(Some(failure)) => Answer::Failed(failure.code, failure.reason),
            Err(None) => return Ended::Over,
        };
        *sent_away = match &last {
            Answer::Failed(AskCode::Unauthenticated, reason) => Some(("identity", reason.clone())),
            Answer::Failed(AskCode::Forbidden, reason) => Some(("access", reason.clone())),
            _ => None,
        };
        match say(connection, &last).await {
            Some(()) if sent_away.is_none() => Ended::Told,
            _ => Ended::Over,
        }
    }

    /// Sends the rows of an answer. An error without a failure: the asker is gone.
    async fn rows(
        &self,
        door: &Arc<Door>,
        Ask { token, question }: Ask,
        connection: &mut Connection,
    ) -> Result<(), Option<AskFailure>> {
        let peer = door.let_in(token).await.map_err(|refusal| {
            AskFailure::new(AskCode::Unauthenticated, format!("database {}: {refusal}", door.name()))
        })?;
        let stretch = self.stretch;
        let mut deadline = Instant::now() + stretch;
        let waiting = Waiting::new(&self.waiting).ok_or_else(busy)?;
        let turn = tokio::time::timeout_at(deadline, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Some(busy())) };
        drop(waiting);
        let patience = Patience::default();
        let _ends = EndsWithMe(patience.clone());
        let (pieces, mut made) = mpsc::channel(PIECES);
        let (asked, behind) = (patience.clone(), Arc::clone(door));
        let runtime = tokio::runtime::Handle::current();
        // All others hold on to one moment of the file until the last row is on its way.
        let paged = matches!(question.wanted, Wanted::Records { .. });
        let work = tokio::task::spawn_blocking(move || {
            let readable = Readable::new(behind.name(), behind.served(), peer.user.as_deref())?;
            let send = |piece| {
                let until = if paged { Instant::now() + stretch } else { deadline };
                let sent = async { tokio::time::timeout_at(until, pieces.send(piece)).await };
                matches!(runtime.block_on(sent), Ok(Ok(())))
            };
            write_rows(&readable, &question, &asked, send)
        });
        let mut verdicts = door.verdicts();
        let mut gone = std::pin::pin!(hangs_up(&mut connection.receiver));
        let failure = loop {
            let piece = tokio::select! {
                piece = made.recv() => piece,
                () = tokio::time::sleep_until(deadline) => {
                    break Some(AskFailure::new(AskCode::TooSlow, TOO_SLOW));
                }
                verdict = verdicts.wait_for(|verdict| *verdict != Verdict::Stays) => {
                    break Some(sent_off(verdict.as_deref().unwrap_or(&Verdict::Changed)));
                }
                () = &mut gone => break None,
            };
            let Some(piece) = piece else {
                let done = work.await;
                let failed = |_| Err(AskFailure::new(AskCode::Failed, "answering was interrupted"));
                return done.unwrap_or_else(failed).map_err(Some);
            };
            let sent = async {
                connection.sender.send(&[&piece]).await?;
                connection.sender.flush().await
            };
            if !matches!(timeout(stretch, sent).await, Ok(Ok(()))) {
                break None;
            }
            if paged {
                deadline = Instant::now() + stretch;
            }
        };
        drop(made);
        while !work.is_finished() {
            patience.end();
            tokio::time::sleep(END_EVERY).await;
        }
        Err(failure)
    }
}

/// Whatever becomes of the asker, its reads end.
struct EndsWithMe(Patience);

impl Drop for EndsWithMe {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The asker must go in the middle of an answer.
fn sent_off(verdict: &Verdict) -> AskFailure {
    let reason = match verdict {
        Verdict::Refused(refusal) => refusal.reason.clone(),
        _ => "what you may do has changed: ask again".to_owned(),
    };
    AskFailure::new(AskCode::Unauthenticated, reason)
}

fn busy() -> AskFailure {
    AskFailure::new(AskCode::Busy, "too many questions are being answered here: try again later")
}

/// Writes an answer's rows in pieces.
fn write_rows(
    readable: &Readable,
    question: &Question,
    patience: &Patience,
    mut send: impl FnMut(Vec<u8>) -> bool,
) -> Result<(), AskFailure> {
    let mut rows = RowsEncoder::default();
    let (mut encoded, mut sent) = (Ok(()), true);
    readable.answer(question, patience, |row: Row| {
        encoded = rows.push(&row);
        sent = encoded.is_err() || !rows.is_full(ROWS_BYTES) || send(rows.finish());
        encoded.is_ok() && sent
    })?;
    encoded.map_err(|error| AskFailure::new(AskCode::Failed, format!("a row can't be sent: {error}")))?;
    // An answer that is not taken in time is not taken for a whole one.
    if sent && (rows.is_empty() || send(rows.finish())) {
        Ok(())
    } else {
        Err(AskFailure::new(AskCode::TooSlow, "the answer was not taken in time"))
    }
}

/// Waits until the asker closes, or speaks out of turn.
async fn hangs_up(receiver: &mut FrameReceiver) {
    let _ = receiver.recv().await;
}

async fn say(connection: &mut Connection, answer: &Answer) -> Option<()> {
    let bytes = answer.encode().ok()?;
    let sent = async {
        connection.sender.send(&[&bytes]).await?;
        connection.sender.flush().await
    };
    timeout(Duration::from_millis(HANDSHAKE_MS), sent).await.ok()?.ok()
}

/// A question that waits for its turn.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING_ASKS).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
