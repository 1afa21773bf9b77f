//! What a link would carry if it were opened now: asked of the other side, which is not changed by that.
//!
//! Invariant: whoever is asked for the first time is not remembered for it; a key that is known has to be shown again.

use std::sync::Arc;
use std::time::Duration;

use blazedb_core::limits::REHEARSAL_CONNECT_MS;
use blazedb_core::session::Session;
use blazedb_store::{Source, StoreError};
use blazedb_transport::ws::{self, ConnectError, ConnectOptions};
use blazedb_transport::{Endpoint, KnownNodes, PinPolicy, Purpose};

use crate::driver::{ClientAsk, introduced};
use crate::fanout::blocking;
use crate::link::{Place, Terms};
use crate::link_keys::sealed_request;
use crate::policy::SyncPolicy;
use crate::rehearsal::{Interrupted, Rehearsal};
use crate::remote_node::RemoteNode;
use crate::route::Route;
use crate::topology::{DatabaseNode, Topology, TopologyError};

/// What a link would carry if it were opened now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Forecast {
    /// Changes that this node would send.
    pub sends: u64,
    /// Their bytes, before names and compression.
    pub bytes_sent: u64,
    /// Changes that the other side would send.
    pub receives: u64,
    /// Their bytes, before names and compression.
    pub bytes_received: u64,
    /// Records that the other side would take away from this node.
    pub removes: u64,
}

/// It can't be told what a link would carry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForecastError {
    /// The database or the address is none.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The other side can't be reached.
    #[error(transparent)]
    Connect(Box<ConnectError>),
    /// None of the addresses answers.
    #[error("none of its addresses answers")]
    NoAddress,
    /// The token can't be read.
    #[error("token_file {0}")]
    Token(String),
    /// The keys that the link needs are not here, or its filter asks for what is sealed.
    #[error("{0}")]
    Keys(String),
    /// A database can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The other side was reached and gave no answer.
    #[error("{0}: {1}")]
    Unanswered(Endpoint, Interrupted),
}

impl Topology {
    /// What a link of this database with this policy would carry if it were opened now, if nothing else changes. The
    /// other side is asked; nothing is changed there or here.
    ///
    /// # Errors
    /// [`ForecastError`].
    pub async fn forecast(
        &self,
        node: &DatabaseNode,
        remote: RemoteNode,
        policy: &SyncPolicy,
    ) -> Result<Forecast, ForecastError> {
        let target = remote.target.map_err(|(url, problem)| TopologyError::Address(url, problem))?;
        let database = self.state().databases.get(node).cloned();
        let database = database.ok_or_else(|| TopologyError::Unknown(node.name().to_owned()))?;
        let endpoint = nearest(&Place::Remote(target)).await.ok_or(ForecastError::NoAddress)?;
        let terms = Terms { policy: policy.clone(), pins: self.core.pins(remote.key) };
        let store = database.store().clone();
        store.ready_for(&policy.encryption).map_err(ForecastError::Keys)?;
        let request = sealed_request(&store, policy).map_err(ForecastError::Keys)?;
        let source = Arc::clone(&self.core.tokens);
        blocking(move || source.refresh()).await.map_err(|error| ForecastError::Token(error.to_string()))?;
        let token = self.core.tokens.subscribe().borrow().clone();
        let pins = unremembered(&terms.pins, &endpoint);
        let options =
            ConnectOptions { timeout: self.core.options.timeout.min(PATIENCE), ..self.core.options.clone() };
        let names = (node.name(), remote.database.as_str());
        let connection =
            ws::connect_for(Purpose::Rehearsal, &endpoint, names, self.identity(), &pins, &options).await;
        let connection = connection.map_err(|error| ForecastError::Connect(Box::new(error)))?;
        let link: Arc<str> = format!("{endpoint}/{}", remote.database).into();
        // What is compressed would have to be unpacked to be counted.
        let ask = ClientAsk { request, compression: false, ..terms.ask(true) };
        let checkpoints = Arc::clone(&link);
        let mut local = blocking(move || introduced(&database, &checkpoints, ask)).await?;
        local.token = token;
        let replica = local.replica;
        let source = Source::new(Arc::clone(&link), replica, 0).taking_away(policy.removals);
        let source = source.told(Arc::clone(&local.view));
        let session = Session::client(local, 0);
        let (here, there) = Rehearsal::client(session, store.clone(), link, connection)
            .play()
            .await
            .map_err(|error| ForecastError::Unanswered(endpoint, error))?;
        let removals = there.removals;
        let foreseen = blocking(move || store.foresee_removals(&removals, &source)).await?;
        Ok(Forecast {
            sends: here.changes + foreseen.told_again,
            bytes_sent: here.bytes + foreseen.bytes,
            receives: there.changes,
            bytes_received: there.bytes,
            removes: foreseen.removed,
        })
    }
}

const PATIENCE: Duration = Duration::from_millis(REHEARSAL_CONNECT_MS);

/// The address that a link would take.
async fn nearest(place: &Place) -> Option<Endpoint> {
    let route = Route::new(place);
    let measuring = async {
        loop {
            route.next_round().await;
        }
    };
    tokio::select! {
        endpoint = route.choose() => endpoint,
        () = measuring => None,
    }
}

/// Accepts the key that is known of an endpoint; any if none is, without taking note of it.
fn unremembered(pins: &PinPolicy, endpoint: &Endpoint) -> PinPolicy {
    match pins {
        PinPolicy::Exactly(key) => PinPolicy::Exactly(*key),
        PinPolicy::FirstUse(known) => known
            .get(endpoint)
            .map_or_else(|| PinPolicy::FirstUse(Arc::new(KnownNodes::in_memory())), PinPolicy::Exactly),
    }
}
