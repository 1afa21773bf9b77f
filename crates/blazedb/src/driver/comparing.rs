//! Comparisons that a node serves, and what they take of its memory.
//!
//! Each needs a list of all that its client is shown. When many come at once (a hub was restored, say), they take turns.
//!
//! Invariants: the lists that are served at one time come to no more than [`COMPARE_MEMORY_BYTES`], or are one; a client that
//! does not finish gives its turn up.

use std::sync::Arc;
use std::time::Duration;

use blazedb_core::limits::{COMPARE_MAX_MS, COMPARE_MEMORY_BYTES, COMPARE_RECORD_BYTES};
use blazedb_core::session::{Closed, Input, ReconcileSet};
use blazedb_core::view::Lens;
use blazedb_core::wire::CloseCode;
use blazedb_store::{Store, StoreError};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant as TokioInstant;

use super::{Answer, Driver, failed};
use crate::applier::ApplyError;
use crate::fanout::blocking;

/// Memory is given out in pieces of this size.
const PIECE_BYTES: u64 = 1 << 20;
const PIECES: u32 = (COMPARE_MEMORY_BYTES / PIECE_BYTES) as u32;

/// Of the whole process: its memory is one.
static TURNS: Semaphore = Semaphore::const_new(PIECES as usize);

/// A turn, for as long as a comparison takes.
pub(super) struct Comparing {
    _turn: SemaphorePermit<'static>,
    until: TokioInstant,
}

/// A list, and the turn that it was made in.
pub(super) struct Listed {
    set: ReconcileSet,
    turn: Option<SemaphorePermit<'static>>,
}

impl Driver {
    /// Has the list made; a server waits for its turn. (A client doesn't: it has few links, and two nodes that serve each other could
    /// wait for one another.)
    pub(super) fn list_for_comparison(&mut self, lens: Arc<Lens>) {
        self.comparing = None;
        let (store, answers) = (self.context.database.store().clone(), self.answers.clone());
        let serves = self.removals.is_none();
        tokio::spawn(async move {
            let answer = match list(store, lens, serves).await {
                Ok(listed) => Answer::Listed(Box::new(listed)),
                Err(error) => failed(&ApplyError::from(&error)),
            };
            // Nobody takes it any more: the turn goes with it.
            let _ = answers.send(answer);
        });
    }

    pub(super) fn on_listed(&mut self, Listed { set, turn }: Listed) {
        let until = TokioInstant::now() + Duration::from_millis(COMPARE_MAX_MS);
        self.comparing = turn.map(|turn| Comparing { _turn: turn, until });
        self.feed(Input::ReconcileSet(Box::new(set)));
    }

    /// When a comparison has to be over.
    pub(super) fn comparing_until(&self) -> Option<TokioInstant> {
        self.comparing.as_ref().map(|comparing| comparing.until)
    }

    /// Gives the turn back once it is not needed any more, or has lasted too long.
    pub(super) fn look_at_comparing(&mut self) {
        if self.comparing.is_some() && !self.session.is_comparing() {
            self.comparing = None;
        }
        if self.comparing_until().is_some_and(|until| until <= TokioInstant::now()) {
            let reason = "the comparison took too long: others wait for their turn";
            self.closed = Some(Closed::Here(CloseCode::GoingAway, reason.to_owned()));
        }
    }
}

async fn list(store: Store, lens: Arc<Lens>, serves: bool) -> Result<Listed, StoreError> {
    let turn = if serves {
        let counted = store.clone();
        let records = blocking(move || counted.count(None)).await?;
        TURNS.acquire_many(pieces(records)).await.ok()
    } else {
        None
    };
    let set = blocking(move || store.reconcile_set(&lens)).await?;
    Ok(Listed { set, turn })
}

/// What the list of so many records takes; one that would take more than there is, all of it.
fn pieces(records: u64) -> u32 {
    let pieces = records.saturating_mul(COMPARE_RECORD_BYTES).div_ceil(PIECE_BYTES);
    u32::try_from(pieces).unwrap_or(PIECES).clamp(1, PIECES)
}

#[cfg(test)]
mod tests {
    use blazedb_store::Password;

    use super::*;
    use crate::{Database, Direction, link_in_process, record};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_comparison_waits_for_its_turn_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Database::open(dir.path().join(name), Password::Plaintext).unwrap();
        let (client, server) = (open("client"), open("server"));
        client.insert(record! { "of" => "the client" }).unwrap();
        server.insert(record! { "of" => "the server" }).unwrap();
        let others = TURNS.acquire_many(PIECES).await.unwrap();
        let link = link_in_process(&client, &server, Direction { push: true, pull: true });
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(client.query().count().unwrap(), 1, "it waits");
        drop(others);
        let deadline = TokioInstant::now() + Duration::from_secs(20);
        while client.query().count().unwrap() < 2 || server.query().count().unwrap() < 2 {
            assert!(TokioInstant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let all = tokio::time::timeout(Duration::from_secs(20), TURNS.acquire_many(PIECES)).await;
        assert!(all.is_ok(), "its turn is over, and its session goes on");
        assert!(!link.is_finished());
        link.abort();
    }

    #[test]
    fn a_list_takes_what_it_is_long_and_never_more_than_there_is() {
        assert_eq!((pieces(0), pieces(1)), (1, 1));
        assert!(pieces(1_000_000) > 100 * pieces(1_000) && pieces(1_000_000) < PIECES);
        assert_eq!(pieces(u64::MAX), PIECES);
    }
}
