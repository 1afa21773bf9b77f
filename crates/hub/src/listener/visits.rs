//! Connections that are no session: questions, and rehearsals of sessions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use blazedb::{Connection, Interrupted, Role, serve_rehearsal};
use tokio::sync::watch;

use super::{SERVED_LINK, Served, Shared};
use crate::door::Door;
use crate::sessions::{TurnedAway, Whose, now_ms};

impl Shared {
    /// Answers the questions of one connection.
    pub(super) async fn answer(
        &self,
        connection: Connection,
        address: SocketAddr,
        name: String,
        (served, stop): (Served, watch::Sender<bool>),
    ) {
        let node = connection.node_id().to_string();
        let auth = Arc::clone(&self.options.auth);
        let door = Door::new(auth, connection.remote, &name, served, Whose::default());
        let mut stop = stop.subscribe();
        let sent_away = tokio::select! {
            sent_away = self.answerer.serve(&door, connection) => sent_away,
            _ = stop.wait_for(|stopped| *stopped) => None,
        };
        if let Some((kind, reason)) = sent_away {
            tracing::warn!(%address, node, database = name, reason, "question refused");
            self.turned_away(address, (node, name), kind, reason);
        }
    }

    /// Says what a session would carry. Whoever asks goes through the same door as for a session.
    pub(super) async fn rehearse(
        &self,
        connection: Connection,
        address: SocketAddr,
        name: String,
        (served, stop): (Served, watch::Sender<bool>),
    ) {
        let (store, node) = (served.database.store().clone(), connection.node_id().to_string());
        let auth = Arc::clone(&self.options.auth);
        let door = Door::new(auth, connection.remote, &name, served, Whose::default());
        let Role::Server { admit, .. } = door.into_role() else { return };
        let mut stop = stop.subscribe();
        let rehearsed = tokio::select! {
            rehearsed = serve_rehearsal(store, Arc::from(SERVED_LINK), admit, connection) => rehearsed,
            _ = stop.wait_for(|stopped| *stopped) => return,
        };
        match rehearsed {
            Err(Interrupted::Closed(reason)) => {
                tracing::warn!(%address, node, database = name, reason, "rehearsal refused");
                self.turned_away(address, (node, name), "access", reason);
            }
            other => tracing::debug!(%address, node, database = name, ?other, "rehearsal"),
        }
    }

    fn turned_away(
        &self,
        address: SocketAddr,
        (node, database): (String, String),
        kind: &'static str,
        reason: String,
    ) {
        self.stats.refused.fetch_add(1, Ordering::Relaxed);
        let (at_ms, node, database) = (now_ms(), Some(node), Some(database));
        self.sessions.refused(TurnedAway { at_ms, address, node, database, kind, reason });
    }
}
