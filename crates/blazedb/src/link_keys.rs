//! What a link does about keys: sessions for the keyring alone, and names that the other side may not read.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use blazedb_core::session::Closed;
use blazedb_core::view::ViewRequest;
use blazedb_core::wire::CloseCode;
use blazedb_store::Store;
use tokio::sync::watch;

use crate::driver::ClientAsk;
use crate::fanout::blocking;
use crate::link::Link;
use crate::outcome::{refused, session_ended, temporary};
use crate::policy::SyncPolicy;
use crate::status::LinkError;

/// How long a session without keys waits for them, and how long it then goes on, in milliseconds.
const KEYRING_WAIT_MS: u64 = 3_000;
const KEYRING_GRACE_MS: u64 = 10;

impl Link {
    /// What is sealed for this link is smaller with a dictionary; without one it is as good.
    pub(crate) async fn share_dictionary(&self) {
        let database = self.config.database.clone();
        let packs = {
            let ask = self.asks.borrow();
            ask.compression && ask.direction.push
        };
        if !packs || database.store().sealer().is_none() {
            return;
        }
        if let Err(error) = blocking(move || database.store().share_dictionary()).await {
            tracing::warn!(%error, "values are sealed uncompressed: no dictionary could be made");
        }
    }

    /// Runs a session that is only there for the keyring. With a `stranger` nothing is exchanged: it is waited for that
    /// being accepted, and then for another session.
    pub(crate) async fn for_keys(
        &self,
        session: impl Future<Output = Closed>,
        stranger: Option<watch::Receiver<ClientAsk>>,
    ) -> Closed {
        if let Some(mut asks) = stranger {
            return tokio::select! {
                closed = session => closed,
                Ok(_) = asks.wait_for(|ask| !ask.stranger) => {
                    self.by_choice.store(true, Ordering::Relaxed);
                    Closed::Here(CloseCode::GoingAway, "the other side is accepted".to_owned())
                }
            };
        }
        let mut keyring = self.config.database.watch_keyring();
        let store = self.config.database.store();
        let encryption = self.terms().policy.encryption.clone();
        let ready = async {
            while store.ready_for(&encryption).is_err() && keyring.changed().await.is_ok() {}
            // What this device has said is on its way.
            tokio::time::sleep(Duration::from_millis(KEYRING_GRACE_MS)).await;
        };
        let wait = Duration::from_millis(KEYRING_WAIT_MS);
        tokio::select! {
            closed = session => closed,
            _ = tokio::time::timeout(wait, ready) => Closed::Here(CloseCode::GoingAway, String::new()),
        }
    }

    pub(crate) fn keys_missing(&self, remote: &str, closed: Closed) -> LinkError {
        let store = self.config.database.store();
        let encryption = self.terms().policy.encryption.clone();
        if self.by_choice.load(Ordering::Relaxed) {
            return temporary("another session follows at once".to_owned());
        }
        match (store.ready_for(&encryption), closed) {
            (Ok(()), _) => {
                // The next session follows at once.
                self.by_choice.store(true, Ordering::Relaxed);
                temporary("the keys have come".to_owned())
            }
            (Err(problem), Closed::Here(CloseCode::GoingAway, _)) if !store.keyring_is_agreed() => {
                temporary(problem)
            }
            (Err(problem), Closed::Here(CloseCode::GoingAway, _)) => {
                let message = format!("database {}: {problem}", self.config.database_name);
                refused(message)
            }
            (Err(_), closed) => session_ended(remote, closed),
        }
    }
}

/// What is asked of the other side, in words that it may hear: names of sealed fields go sealed.
pub(crate) fn sealed_request(store: &Store, policy: &SyncPolicy) -> Result<ViewRequest, String> {
    let mut request = policy.request();
    let Some(sealer) = store.sealer().filter(|sealer| sealer.seals()) else { return Ok(request) };
    let filter = policy.combined_filter();
    let fields = filter.iter().flat_map(|filter| filter.fields().into_iter().map(str::to_owned));
    if let Some(field) = fields.into_iter().find(|field| sealer.rule().seals(field)) {
        return Err(format!(
            "policy: the filter asks for {field:?}, which is sealed: the other side can only filter by routing_fields"
        ));
    }
    for name in &mut request.excluded {
        *name = sealer.public_name(name).map_err(|error| error.to_string())?;
    }
    Ok(request)
}
