//! Databases of one node that are connected: who depends on whom, and news of each other's changes.

use blazedb_core::feed::Seq;
use tokio::sync::watch;

use crate::database::Database;
use crate::registered::Registered;
use crate::topology::{DatabaseNode, Topology, TopologyError};

/// News of the databases that one is connected to: see [`Topology::watch_local`].
#[derive(Debug)]
pub struct LocalChanges {
    heads: Vec<(DatabaseNode, watch::Receiver<Seq>)>,
}

impl LocalChanges {
    /// Waits until one of them changes, and answers which and how far its feed goes. Changes that come quickly one
    /// after the other are one. `None` once all are closed.
    pub async fn next(&mut self) -> Option<(DatabaseNode, Seq)> {
        while !self.heads.is_empty() {
            let waiting = self.heads.iter_mut().map(|(_, head)| Box::pin(head.changed()));
            let (changed, at, _) = futures_util::future::select_all(waiting).await;
            if changed.is_err() {
                self.heads.remove(at);
                continue;
            }
            let (node, head) = self.heads.get_mut(at)?;
            return Some((*node, *head.borrow_and_update()));
        }
        None
    }
}

impl Topology {
    /// Connects two databases of this node: each hears of the other's changes ([`Topology::watch_local`]), and both
    /// show up as depending on each other ([`Topology::dependencies`]). Connecting them again changes nothing.
    ///
    /// # Errors
    /// [`TopologyError::Unknown`]; [`TopologyError::Itself`] if both are the same.
    pub fn connect_local(&self, a: impl Registered, b: impl Registered) -> Result<(), TopologyError> {
        let (a, b) = (self.node_of(&a)?, self.node_of(&b)?);
        let mut state = self.state();
        let known = |node: &DatabaseNode| state.databases.get(node).cloned();
        let unknown = |node: &DatabaseNode| TopologyError::Unknown(node.name().to_owned());
        let first = known(&a).ok_or_else(|| unknown(&a))?;
        let second = known(&b).ok_or_else(|| unknown(&b))?;
        if a == b || first.is(&second) {
            return Err(TopologyError::Itself(a.name().to_owned()));
        }
        let pair = if a < b { (a, b) } else { (b, a) };
        state.neighbours.insert(pair);
        Ok(())
    }

    /// Takes a connection of two databases back. Answers whether there was one.
    pub fn disconnect_local(&self, a: &DatabaseNode, b: &DatabaseNode) -> bool {
        let pair = if a < b { (*a, *b) } else { (*b, *a) };
        self.state().neighbours.remove(&pair)
    }

    /// The databases that are connected to one.
    #[must_use]
    pub fn dependencies(&self, node: &DatabaseNode) -> Vec<DatabaseNode> {
        let state = self.state();
        let other = |(a, b): &(DatabaseNode, DatabaseNode)| match (a == node, b == node) {
            (true, _) => Some(*b),
            (_, true) => Some(*a),
            _ => None,
        };
        state.neighbours.iter().filter_map(other).collect()
    }

    /// Tells of changes in the databases that are connected to this one now.
    ///
    /// # Errors
    /// [`TopologyError::Unknown`].
    pub fn watch_local(&self, node: &DatabaseNode) -> Result<LocalChanges, TopologyError> {
        if !self.state().databases.contains_key(node) {
            return Err(TopologyError::Unknown(node.name().to_owned()));
        }
        let neighbours = self.dependencies(node);
        let state = self.state();
        let heads = neighbours.into_iter().filter_map(|neighbour| {
            let head = state.databases.get(&neighbour).map(Database::watch_head)?;
            Some((neighbour, head))
        });
        Ok(LocalChanges { heads: heads.collect() })
    }
}
