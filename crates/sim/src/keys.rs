//! Sealed databases: who has which keys, and how the keyring gets around.
//!
//! Node 1 makes the keyring, the other members join with invitations; keys are rotated, members go and come back.
//! Secrets follow from the seed as everything does.

use std::sync::Arc;

use blazedb_core::keyring::KeyringHead;
use blazedb_core::session::Input;
use blazedb_core::topology::EncryptionSpec;
use blazedb_core::wire::CloseCode;
use blazedb_store::{Store, StoreError};

use crate::Failure;
use crate::network::{Event, Place};
use crate::world::World;

/// The node that makes the keyring; it is never removed.
pub(crate) const KEEPER: usize = 1;
/// How often a session that is only there for the keyring looks whether it has come, in milliseconds.
const KEYS_CHECK_MS: u64 = 300;

impl World {
    /// The keyring of a sealed run, and codes for those who are to join it.
    pub(crate) fn begin_keyring(&mut self) -> Result<(), Failure> {
        let rule =
            self.links.iter().map(|link| &link.encryption).find(|rule| **rule != EncryptionSpec::SmartProxy);
        if !self.config.sealed {
            return Ok(());
        }
        let rule = rule.cloned().unwrap_or_default();
        let Some(keeper) = self.nodes.get(KEEPER).and_then(|node| node.store.clone()) else { return Ok(()) };
        keeper.create_keyring("node1", rule, None)?;
        let others: Vec<usize> = (0..self.nodes.len()).filter(|node| self.is_to_join(*node)).collect();
        others.into_iter().try_for_each(|node| self.invite(&keeper, node))
    }

    fn is_to_join(&self, node: usize) -> bool {
        node != KEEPER && self.nodes.get(node).is_some_and(|node| node.member)
    }

    fn invite(&mut self, by: &Store, node: usize) -> Result<(), Failure> {
        let Some(store) = self.nodes.get(node).and_then(|node| node.store.clone()) else { return Ok(()) };
        let name = format!("node{node}");
        let code = by.invite_member(&name, true)?;
        self.note(|| format!("node {node} is invited"));
        let joined = store.join_keyring(&code, &name);
        match joined {
            // It may have the keyring without the invitation, which is on its way.
            Ok(_) | Err(StoreError::Keyring(_)) => self.keyring_changed(node),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Rotates keys, or removes or invites a member.
    pub(crate) fn change_keys(&mut self) -> Result<(), Failure> {
        let Some(keeper) = self.nodes.get(KEEPER).and_then(|node| node.store.clone()) else { return Ok(()) };
        let node = self.rng.index(self.nodes.len());
        let store = self.nodes.get(node).and_then(|node| node.store.clone());
        self.counts.grants += 1;
        let member = store.as_ref().and_then(Store::member_id);
        let known = member.filter(|id| keeper.keyring().is_some_and(|ring| ring.member(id).is_some()));
        match (known, self.is_to_join(node), self.rng.below(3)) {
            (Some(id), true, 0) if self.config.removes_members => {
                self.note(|| format!("node {node} is removed from the keyring"));
                keeper.remove_members(&[id])?;
                self.removed_at.insert(node, (self.ledger.next_number(), id));
            }
            _ => {
                self.note(|| "the keys are rotated".to_owned());
                keeper.rotate_keys()?;
            }
        }
        self.keyring_changed(KEEPER);
        Ok(())
    }

    /// Something else is to be sealed from now on.
    pub(crate) fn set_rule(&mut self, rule: &EncryptionSpec) -> Result<(), Failure> {
        self.on_restart(KEEPER)?;
        let Some(keeper) = self.nodes.get(KEEPER).and_then(|node| node.store.clone()) else { return Ok(()) };
        if keeper.keyring().is_some_and(|ring| ring.rule() != rule) {
            self.note(|| format!("what is sealed is {rule:?}"));
            keeper.set_seal_rule(rule.clone())?;
            self.keyring_changed(KEEPER);
        }
        Ok(())
    }

    /// Lets everything be sent anew after another rule, and says so.
    pub(crate) fn settle_keys(&mut self) -> Result<(), Failure> {
        if !self.config.sealed {
            return Ok(());
        }
        crate::check::echo::settle(self)?;
        let Some(keeper) = self.nodes.get(KEEPER).and_then(|node| node.store.clone()) else { return Ok(()) };
        keeper.settle_seal_rule()?;
        self.keyring_changed(KEEPER);
        Ok(())
    }

    /// Who was removed from the keyring as a node knows it.
    pub(crate) fn known_removed(&self, node: usize) -> Vec<usize> {
        let store = self.nodes.get(node).and_then(|node| node.store.as_ref());
        let Some(ring) = store.and_then(Store::keyring) else { return Vec::new() };
        let gone = self.removed_at.iter().filter(|(_, (_, id))| ring.member(id).is_none());
        gone.map(|(node, _)| *node).collect()
    }

    /// The newest epoch whose key a node has; 0 if it seals nothing.
    pub(crate) fn epoch_of(&self, node: usize) -> u32 {
        let sealer = self.nodes.get(node).and_then(|node| node.store.as_ref()).and_then(Store::sealer);
        sealer
            .filter(|sealer| sealer.is_active())
            .and_then(|sealer| sealer.keys().epochs().max())
            .unwrap_or(0)
    }

    /// The sessions of a node learn that its keyring is another one.
    pub(crate) fn keyring_changed(&mut self, node: usize) {
        for place in self.places_of(node) {
            self.schedule(0, Event::Keyring(place));
        }
    }

    /// As the driver does: a session whose peer has names in another form starts anew.
    pub(crate) fn on_keyring(&mut self, place: Place) -> Result<(), Failure> {
        let Some(store) = self.store_of(place) else { return Ok(()) };
        let known = self.conns.get(&place.conn).map_or(0, |conn| conn.end(place.end).generation);
        let (generation, keyring) = (store.seal_generation(), store.keyring());
        self.feed(place, Input::Keyring(keyring))?;
        if generation != known {
            self.note(|| format!("{place:?}: the keys have changed"));
            self.end_session(place, false);
        }
        Ok(())
    }

    pub(crate) fn extend_keyring(&mut self, place: Place, statements: &[Arc<[u8]>]) -> Result<(), Failure> {
        let (Some(store), Some(node)) = (self.store_of(place), self.node_of(place)) else { return Ok(()) };
        self.note(|| format!("{place:?}: {} statements", statements.len()));
        match store.extend_keyring(statements) {
            Ok(()) => {
                self.keyring_changed(node);
                self.on_keyring(place)
            }
            Err(error) => self.feed(place, Input::ApplyFailed(CloseCode::Refused, error.to_string())),
        }
    }

    pub(crate) fn keyring_agreed(&mut self, place: Place, head: &KeyringHead) -> Result<(), Failure> {
        let (Some(store), Some(node)) = (self.store_of(place), self.node_of(place)) else { return Ok(()) };
        let before = store.seal_generation();
        store.keyring_agreed(head)?;
        if store.seal_generation() != before {
            self.keyring_changed(node);
        }
        Ok(())
    }

    /// As a link does: a session that is only there for the keyring ends once that has come.
    pub(crate) fn on_keys_check(&mut self, place: Place) -> Result<(), Failure> {
        let Some(store) = self.store_of(place) else { return Ok(()) };
        let link = self.conns.get(&place.conn).and_then(|conn| self.links.get(conn.link));
        let Some(ready) = link.map(|link| store.ready_for(&link.encryption).is_ok()) else { return Ok(()) };
        if ready {
            self.end_session(place, false);
        } else {
            self.schedule(KEYS_CHECK_MS, Event::KeysCheck(place));
        }
        Ok(())
    }
}
